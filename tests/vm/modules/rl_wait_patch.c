// SPDX-License-Identifier: GPL-2.0
/* Patches that in which the thread rl_waiter sleeps. */
#include <linux/sched.h>

#include "rl_common.h"

static int rl_new_wait(void)
{
	schedule_timeout_interruptible(MAX_SCHEDULE_TIMEOUT);
	return 1;
}

RL_LIVEPATCH("rl_threads", "rl_wait", rl_new_wait, false);
