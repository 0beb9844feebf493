// SPDX-License-Identifier: MIT
/*
 * replay.c: main() for a target where there is no libFuzzer: hands it every file that
 * it is told of, once, those of a folder as well.  What is wrong ends it with a signal,
 * or a sanitizer's report, behind the name of the file.
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"

/* As long as libFuzzer gives it, and what a busy machine takes. */
#define TIMEOUT 60

static char now[4096];
static unsigned int files;

static void on_alarm(int sig)
{
	static const char text[] = ": does not end\n";
	ssize_t ignored;

	(void)sig;
	ignored = write(STDERR_FILENO, now, strlen(now));
	ignored = write(STDERR_FILENO, text, sizeof(text) - 1);
	(void)ignored;
	_exit(1);
}

static int complain(const char *name)
{
	fprintf(stderr, "%s: %s\n", name, strerror(errno));
	return 1;
}

static int replay_file(const char *name)
{
	FILE *file = fopen(name, "re");
	unsigned char *data;
	struct stat st;
	size_t size;

	if (!file)
		return complain(name);
	if (fstat(fileno(file), &st))
		st.st_size = 0;
	/* To the byte, so that AddressSanitizer sees who reads beyond. */
	data = malloc(st.st_size ? (size_t)st.st_size : 1);
	if (!data) {
		fclose(file);
		return complain(name);
	}
	size = fread(data, 1, (size_t)st.st_size, file);
	fclose(file);

	snprintf(now, sizeof(now), "%s", name);
	fprintf(stderr, "%s\n", name);
	alarm(TIMEOUT);
	LLVMFuzzerTestOneInput(data, size);
	alarm(0);
	free(data);
	files++;
	return 0;
}

static int replay(const char *name)
{
	struct dirent **list;
	char path[4096];
	struct stat st;
	int n, i, ret = 0;

	if (stat(name, &st))
		return complain(name);
	if (!S_ISDIR(st.st_mode))
		return replay_file(name);
	n = scandir(name, &list, NULL, alphasort);
	if (n < 0)
		return complain(name);
	for (i = 0; i < n; i++) {
		if (list[i]->d_name[0] != '.') {
			snprintf(path, sizeof(path), "%s/%s", name,
				 list[i]->d_name);
			ret |= replay(path);
		}
		free(list[i]);
	}
	free(list);
	return ret;
}

int main(int argc, char **argv)
{
	int i, ret = 0;

	signal(SIGALRM, on_alarm);
	fuzz_look_every = 1;
	for (i = 1; i < argc; i++)
		ret |= replay(argv[i]);
	printf("%u files\n", files);
	return ret || !files;
}
