/* SPDX-License-Identifier: MIT */
/*
 * The kernel module, which is not loaded: what there is of it on this machine, and how it
 * is to be had here.
 */
#ifndef MODULE_H
#define MODULE_H

#include <stdbool.h>
#include <stddef.h>

#define ADVICE_LEN 400

/* "" for root, "sudo " where that is, else "as root: ". */
const char *as_root(void);

/*
 * @release: of the kernel that runs.  Writes what there is of the module into @found, and
 * into @advice how to load it; "" if that cannot be done here.  Both have ADVICE_LEN bytes.
 */
void find_module(const char *release, char *found, char *advice);

/* Are there headers of the kernel, to build the module with? */
bool have_headers(const char *release);

/* How to get them, into ADVICE_LEN bytes; "": the module needs none, or cannot be loaded. */
void headers_advice(const char *release, char *advice);

#endif /* MODULE_H */
