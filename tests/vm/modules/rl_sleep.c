// SPDX-License-Identifier: GPL-2.0
/*
 * Patches the function in which every task sleeps that calls nanosleep(2), so that a sleeping
 * task holds the transition up until it ends, is signalled, or is forced. The replacement does
 * not restart an interrupted sleep.
 */
#include <linux/hrtimer.h>
#include <linux/sched/signal.h>

#include "rl_common.h"

static noinline long rl_hrtimer_nanosleep(ktime_t wanted, const enum hrtimer_mode mode,
					  const clockid_t clock)
{
	set_current_state(TASK_INTERRUPTIBLE);
	schedule_hrtimeout(&wanted, mode);
	return signal_pending(current) ? -EINTR : 0;
}

RL_LIVEPATCH(NULL, "hrtimer_nanosleep", rl_hrtimer_nanosleep, false);
