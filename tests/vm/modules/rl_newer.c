// SPDX-License-Identifier: GPL-2.0
/*
 * Replaces both halves of the module rl_halves. The new outer function calls the inner one by its
 * old name, as every caller does.
 */
#include <linux/sched.h>

#include "rl_common.h"
#include "rl_halves.h"

static RL_FUNCTION int rl_new_inner(void)
{
	return RL_NEW;
}

static RL_FUNCTION void rl_new_outer(void)
{
	cond_resched();
	rl_note(RL_NEW, rl_inner());
	cond_resched();
}

RL_PATCH("rl_halves", false,
	 { .old_name = "rl_outer", .new_func = rl_new_outer },
	 { .old_name = "rl_inner", .new_func = rl_new_inner });
