# SPDX-License-Identifier: MIT
#
# The modules evering, evnet and evering_echo for one kernel, for Nix.  In NixOS:
#
#	boot.extraModulePackages = [
#	  (config.boot.kernelPackages.callPackage ./tools/packaging/nix/module.nix { })
#	];
#	boot.kernelModules = [ "evering" ];
#
# Parsed by Nix 2.8 of Debian 12, which has no Nixpkgs to build it with.
{ lib, stdenv, kernel, kernelModuleMakeFlags ? kernel.makeFlags }:

stdenv.mkDerivation {
  pname = "evering-modules";
  version = "0.1.0-${kernel.version}";
  # The clone, but for what was built in it.
  src = lib.cleanSourceWith {
    src = ../../..;
    filter = name: type:
      lib.cleanSourceFilter name type && name != toString ../../../build;
  };

  nativeBuildInputs = kernel.moduleBuildDependencies;
  hardeningDisable = [ "pic" "format" ];
  enableParallelBuilding = true;

  makeFlags = kernelModuleMakeFlags ++ [
    "KDIR=${kernel.dev}/lib/modules/${kernel.modDirVersion}/build"
  ];
  buildFlags = [ "modules" ];

  installPhase = ''
    runHook preInstall
    install -D -m 644 -t $out/lib/modules/${kernel.modDirVersion}/updates *.ko
    runHook postInstall
  '';

  meta = {
    description = "Shared-memory channels between two processes (kernel modules)";
    license = lib.licenses.gpl2Only;
    platforms = [ "x86_64-linux" "aarch64-linux" "riscv64-linux" ];
    broken = kernel.kernelOlder "6.1";
  };
}
