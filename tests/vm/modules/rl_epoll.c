// SPDX-License-Identifier: GPL-2.0
/*
 * Patches the system call epoll_wait(2), in which a task sleeps until something happens or it
 * is signalled. The new one only says that it is there.
 */
#include <linux/ptrace.h>

#include "rl_common.h"

static long rl_epoll_wait(const struct pt_regs *regs)
{
	return -EXDEV;
}

RL_LIVEPATCH(NULL, "__x64_sys_epoll_wait", rl_epoll_wait, false);
