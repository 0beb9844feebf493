# SPDX-License-Identifier: MIT
# Linux 6.12 has no lazy preemption.
/^\/\* Lets a task run that the scheduler prefers/,/^$/d
s/\<evr_resched();/cond_resched();/
