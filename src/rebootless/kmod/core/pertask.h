/* SPDX-License-Identifier: GPL-2.0-only */
/* What the per-task engine (pertask.c) and its look at one task (pertask_move.c) share. */
#ifndef _RB_PERTASK_H
#define _RB_PERTASK_H

#include "core.h"

extern unsigned long rb_goal;	/* 0 or 1: the bit that tasks move to */

static inline bool rb_bit_is(struct task_struct *task, unsigned long value)
{
	return test_tsk_thread_flag(task, RB_TASK_BIT) == !!value;
}

static inline void rb_set_universe(struct task_struct *task, unsigned long value)
{
	if (value)
		set_tsk_thread_flag(task, RB_TASK_BIT);
	else
		clear_tsk_thread_flag(task, RB_TASK_BIT);
}

static inline bool rb_left_behind(struct task_struct *task)
{
	return !rb_bit_is(task, rb_goal);
}

/* Once, before the others; false: this kernel cannot pin a task that does not run. */
bool rb_move_init(void);
/* 0: it has moved; else it is added to t->held. */
int rb_move(struct rb_transition *t, struct task_struct *task);

#endif /* _RB_PERTASK_H */
