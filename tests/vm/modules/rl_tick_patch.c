// SPDX-License-Identifier: GPL-2.0
/* Patches what the thread rl_ticker calls all the time. */
#include <linux/sched.h>

#include "rl_common.h"

static int rl_new_tick(void)
{
	int n;

	for (n = 0; n < 200; n++)
		cpu_relax();
	return 1;
}

RL_LIVEPATCH("rl_threads", "rl_tick", rl_new_tick, false);
