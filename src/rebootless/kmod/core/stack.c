// SPDX-License-Identifier: GPL-2.0-only
/* Not there yet. */
#include "core.h"

bool rb_stack_reliable(void)
{
	return false;
}

int rb_code_collect(struct rb_transition *t)
{
	return 0;
}

void rb_code_forget(void)
{
}

int rb_stack_check(struct task_struct *task, unsigned long *where)
{
	return -EINVAL;
}

void rb_held_add(struct rb_held *held, struct task_struct *task, unsigned long where)
{
}
