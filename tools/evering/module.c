// SPDX-License-Identifier: MIT
/*
 * The kernel module on a machine where it is not loaded; module.h says what the functions
 * are for.  Advice is of use only if it can be followed: so this looks whether the kernel
 * loads modules at all, whether this is a container, what DKMS and the distribution's
 * packages have, and whether the kernel is one of the distribution's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memory.h"
#include "module.h"

#ifndef EVERING_SOURCE_DIR
#define EVERING_SOURCE_DIR "."
#endif

static bool exists(const char *path)
{
	return !access(path, F_OK);
}

const char *as_root(void)
{
	if (!geteuid())
		return "";
	return exists("/usr/bin/sudo") || exists("/bin/sudo") ? "sudo " :
								"as root: ";
}

/*
 * The families of distributions: what /etc/os-release calls them, what their packages of
 * headers are called, and the file that a kernel of theirs has; %s is its release.
 */
static const struct family {
	const char *ids;
	const char *headers;
	const char *kernel;
} families[] = {
	{ " debian ubuntu ", "apt install linux-headers-%s",
	  "/var/lib/dpkg/info/linux-image-%s.list" },
	{ " fedora rhel centos ", "dnf install kernel-devel-%s",
	  "/lib/modules/%s/modules.dep" },
	{ " suse opensuse sles ", "zypper install kernel-default-devel",
	  "/lib/modules/%s/modules.dep" },
	{ " arch ", "pacman -S linux-headers", "/lib/modules/%s/modules.dep" },
	{ " alpine ", "apk add linux-lts-dev", "/lib/modules/%s/modules.dep" },
};

/* Does @list, of words in blanks, have one of the words of @text, which may be quoted? */
static bool has_word(const char *list, char *text)
{
	char word[66], *save, *at;

	for (at = strtok_r(text, "\" \n", &save); at;
	     at = strtok_r(NULL, "\" \n", &save)) {
		snprintf(word, sizeof(word), " %s ", at);
		if (strstr(list, word))
			return true;
	}
	return false;
}

static const struct family *find_family(void)
{
	FILE *file = fopen("/etc/os-release", "re");
	const struct family *found = NULL;
	char line[256];
	size_t i;

	for (i = 0; file && !found && i < sizeof(families) / sizeof(*families);
	     i++) {
		rewind(file);
		while (!found && fgets(line, sizeof(line), file)) {
			if ((!strncmp(line, "ID=", 3) &&
			     has_word(families[i].ids, line + 3)) ||
			    (!strncmp(line, "ID_LIKE=", 8) &&
			     has_word(families[i].ids, line + 8)))
				found = &families[i];
		}
	}
	if (file)
		fclose(file);
	return found;
}

/* @pattern with a %s for @release. */
static void fill_in(char *buf, size_t size, const char *pattern,
		    const char *release)
{
	const char *mark = strstr(pattern, "%s");

	if (mark)
		snprintf(buf, size, "%.*s%s%s", (int)(mark - pattern), pattern,
			 release, mark + 2);
	else
		snprintf(buf, size, "%s", pattern);
}

bool have_headers(const char *release)
{
	char path[512];

	fill_in(path, sizeof(path), "/lib/modules/%s/build/Makefile", release);
	return !access(path, R_OK);
}

/* The command that installs the headers; false: no package has them. */
static bool headers_package(const char *release, char *command, size_t size)
{
	const struct family *family = find_family();
	char path[512];

	if (!family)
		return false;
	fill_in(path, sizeof(path), family->kernel, release);
	if (!exists(path))
		return false;
	fill_in(command, size, family->headers, release);
	return true;
}

static bool in_container(void)
{
	return exists("/.dockerenv") || exists("/run/.containerenv") ||
	       exists("/run/systemd/container") || getenv("container");
}

static bool loads_modules(void)
{
	return exists("/proc/modules");
}

/* As modules.dep has it: "updates/dkms/evering.ko.xz:". */
static bool is_installed(const char *release)
{
	char path[512], line[512];
	bool found = false;
	FILE *file;

	fill_in(path, sizeof(path), "/lib/modules/%s/modules.dep", release);
	file = fopen(path, "re");
	while (file && !found && fgets(line, sizeof(line), file))
		found = !strncmp(line, "evering.ko", 10) ||
			strstr(line, "/evering.ko");
	if (file)
		fclose(file);
	return found;
}

/* A kernel that is locked down takes no module without a signature. */
static const char *signature_advice(void)
{
	char line[128];

	if (!read_line("/sys/kernel/security/lockdown", line, sizeof(line)) ||
	    strstr(line, "[none]"))
		return "";
	return "; the kernel is locked down, and wants it signed: mokutil --import "
	       "/var/lib/dkms/mok.pub";
}

static bool by_dkms(void)
{
	return exists("/var/lib/dkms/evering");
}

void find_module(const char *release, char *found, char *advice)
{
	const char *root = as_root();

	*advice = '\0';
	if (!loads_modules()) {
		snprintf(
			found, ADVICE_LEN,
			"none: this kernel was built without modules, so channels are of memfds");
	} else if (in_container()) {
		snprintf(
			found, ADVICE_LEN,
			"evering.ko is not loaded, and a container cannot do that");
		snprintf(
			advice, ADVICE_LEN,
			"load it on the host, and give /dev/evering to the container: "
			"--device=/dev/evering");
	} else if (is_installed(release)) {
		snprintf(found, ADVICE_LEN,
			 "evering.ko is installed, and not loaded");
		snprintf(advice, ADVICE_LEN, "%smodprobe evering%s", root,
			 signature_advice());
	} else if (by_dkms()) {
		snprintf(found, ADVICE_LEN,
			 "DKMS has not built evering.ko for this kernel");
		snprintf(
			advice, ADVICE_LEN,
			"%s%sdkms autoinstall -k %s, then %smodprobe evering%s",
			have_headers(release) ? "" :
						"install the headers, then ",
			root, release, root, signature_advice());
	} else if (exists("/var/lib/dpkg/info/evering-tools.list")) {
		snprintf(found, ADVICE_LEN, "evering.ko is not installed");
		snprintf(
			advice, ADVICE_LEN,
			"for the backend 'device': %sapt install evering-dkms, or "
			"./evering-dkms_*.deb of where evering-tools came from",
			root);
	} else if (exists(EVERING_SOURCE_DIR "/Kbuild")) {
		snprintf(found, ADVICE_LEN, "evering.ko is not loaded");
		snprintf(
			advice, ADVICE_LEN,
			"for the backend 'device'%s: make -C %s modules && %sinsmod "
			"%s/evering.ko",
			have_headers(release) ? "" : ", with the headers",
			EVERING_SOURCE_DIR, root, EVERING_SOURCE_DIR);
	} else {
		snprintf(found, ADVICE_LEN, "evering.ko is not installed");
		snprintf(
			advice, ADVICE_LEN,
			"for the backend 'device': make modules in evering's source, "
			"and %sinsmod evering.ko",
			root);
	}
}

void headers_advice(const char *release, char *advice)
{
	char command[ADVICE_LEN - 40];

	*advice = '\0';
	if (!loads_modules() || in_container() || is_installed(release))
		return;
	if (headers_package(release, command, sizeof(command)))
		snprintf(advice, ADVICE_LEN, "%s%s", as_root(), command);
	else
		snprintf(
			advice, ADVICE_LEN,
			"this kernel is none of the distribution's: where it was built "
			"there are headers, make modules KDIR=...");
}
