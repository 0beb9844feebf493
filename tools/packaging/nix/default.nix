# SPDX-License-Identifier: MIT
#
# The library, the programs and the relay, for Nix; the modules are module.nix's.
#
#	nix-build -E 'with import <nixpkgs> { }; callPackage ./tools/packaging/nix { }'
#
# Parsed by Nix 2.8 of Debian 12, which has no Nixpkgs to build it with.  The Makefile looks for
# liburing and libfabric in /usr/include: of the one it is told, and without the other it
# leaves out the io_uring arms of `evering bench`, which link liburing.a.
{ lib, stdenv, libfabric, openssl, pkg-config }:

stdenv.mkDerivation {
  pname = "evering";
  version = "0.1.0";
  # The clone, but for what was built in it.
  src = lib.cleanSourceWith {
    src = ../../..;
    filter = name: type:
      lib.cleanSourceFilter name type && name != toString ../../../build;
  };

  buildInputs = [ libfabric openssl ];
  nativeCheckInputs = [ pkg-config ];
  enableParallelBuilding = true;

  postPatch = "patchShebangs selftests tools";
  makeFlags = [ "have_fabric=1" "PREFIX=$(out)" "SOURCEDIR=." ];
  buildFlags = [ "library" "tools" ];

  # The rest of the tests need the kernel's sources, guests and time: `make test`.
  doCheck = true;
  checkPhase = ''
    runHook preCheck
    BUILD=$PWD/build selftests/scripts/install.sh
    runHook postCheck
  '';

  # That of Debian's package, for the place where the program is here.
  postInstall = ''
    install -D -m 644 tools/packaging/debian/evering-relay.service \
      $out/lib/systemd/system/evering-relay.service
    substituteInPlace $out/lib/systemd/system/evering-relay.service \
      --replace /usr/bin/evering-relay $out/bin/evering-relay \
      --replace /bin/kill kill
  '';

  meta = {
    description = "Shared-memory channels between two processes";
    license = with lib.licenses; [ mit gpl2Only ];
    platforms = lib.platforms.linux;
    mainProgram = "evering";
  };
}
