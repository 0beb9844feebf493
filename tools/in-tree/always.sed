# SPDX-License-Identifier: MIT
# From kmod/ to a kernel's own tree: what a prefix does not say.
/^#include <linux\/evering_\(op\|net\)\.h>$/a #include <linux/evering_port.h>
/^#include "evering_port\.h"$/{
	N
	d
}
/^#include "evering_kmod\.h"$/{
	N
	s/^\(.*\)\n#include "evering_port\.h"$/#include <linux\/evering_port.h>\n\n\1/
}
s/\<evr_uring_cmd_data(\([a-z_]*\))/(const void *)\1->sqe->cmd/
s/\<evr_uring_done([a-z_]*, \([a-z_]*\), [a-z_]*)/\1/
s/\<evr_need_resched_lazy()/test_thread_flag(TIF_NEED_RESCHED_LAZY)/
s/\<evr_poll_does_not_wait(\([a-z_]*\))/(!\1 || !\1->_qproc)/
s/evering_kmod\.h/internal.h/g
s/EVERING_KMOD_H/EVERING_INTERNAL_H/g
s/\<uapi\/linux\/evering/include\/uapi\/linux\/evering/g
# compat.h brings this to the file that has the io_uring command.
/^#include <linux\/eventfd\.h>$/{
	n
	s/^#include <linux\/file\.h>$/&\n#include <linux\/io_uring\/cmd.h>/
}
