// SPDX-License-Identifier: GPL-2.0
/* Version 1 of both functions of rl_halves. The new rl_outer() calls the other by its old name. */
#include <linux/delay.h>

#include "rl_common.h"
#include "rl_halves.h"

static RL_WHOLE int rl_new_inner(int pause)
{
	if (pause)
		usleep_range(100, 200);
	return 1;
}

static RL_WHOLE void rl_new_outer(struct rl_count *count)
{
	rl_meet(count, 1);
}

static struct klp_func rl_funcs[] = {
	{ .old_name = "rl_inner", .new_func = rl_new_inner, },
	{ .old_name = "rl_outer", .new_func = rl_new_outer, },
	{ }
};

RL_FUNCTIONS("rl_halves", false);
