# SPDX-License-Identifier: MIT
# timer_container_of() was from_timer() before Linux 6.16.
s/\<timer_container_of\>/from_timer/g
