// SPDX-License-Identifier: GPL-2.0-only
/* Not there yet. */
#include "core.h"

struct rb_transition rb_transition;

int rb_transition_init(void)
{
	return 0;
}

void rb_transition_exit(void)
{
}
