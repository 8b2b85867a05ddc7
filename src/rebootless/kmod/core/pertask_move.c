// SPDX-License-Identifier: GPL-2.0-only
/*
 * One task of the per-task engine: it is looked at, and moves if its stack is clean. Who
 * may do that when, and why no two do so at a time, is told in pertask.c.
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <asm/unwind.h>
#include <linux/smp.h>

#include "pertask.h"

#define RUNNING_TRIES	3

#ifdef RB_TASK_CALL_FUNC
RB_FUNCTION(task_call_func);
#else
RB_FUNCTION(try_invoke_on_locked_down_task);
#endif

/* What one look at a task found. */
struct look {
	struct task_struct *task;
	int error;		/* 0: it has moved; -EAGAIN: look again */
	unsigned long where;	/* -EBUSY: the address that holds it */
};

/* The task is pinned, or current with interrupts off. */
static void move_if_clean(struct look *look)
{
	look->error = rb_stack_check(look->task, &look->where);
	if (!look->error)
		rb_set_universe(look->task, rb_goal);
}

static int look_pinned(struct task_struct *task, void *argument)
{
	struct look *look = argument;

	/*
	 * On its CPU: it runs. The locks keep it there or away. What it wrote on its
	 * stack before it left is seen, since rb_on_cpu() is an acquire.
	 */
	if (rb_on_cpu(task))
		return 0;
	if (rb_task_state(task) == TASK_DEAD) {
		look->error = 0;
		rb_set_universe(task, rb_goal);
		return 0;
	}
	move_if_clean(look);
	return 0;
}

#ifdef RB_TASK_CALL_FUNC
static void look_at(struct look *look)
{
	look->error = -EAGAIN;
	rb_call(task_call_func)(look->task, look_pinned, look);
}
#else
static bool look_locked_down(struct task_struct *task, void *argument)
{
	return !look_pinned(task, argument);
}

/* Does not call back for a task that is being woken: -EAGAIN. */
static void look_at(struct look *look)
{
	look->error = -EAGAIN;
	rb_call(try_invoke_on_locked_down_task)(look->task, look_locked_down, look);
}
#endif

/* Whether the interrupt that we are in came from user mode: the first registers tell. */
static bool interrupts_user(void)
{
	struct unwind_state state;
	struct pt_regs *regs;

	for (unwind_start(&state, current, NULL, NULL); !unwind_done(&state);
	     unwind_next_frame(&state)) {
		regs = unwind_get_entry_regs(&state, NULL);
		if (regs)
			return user_mode(regs);
	}
	return false;
}

/*
 * On the CPU where the task ran a moment ago. Called without an interrupt for this
 * CPU's own task and where the idle task finds the call by itself: then the first
 * registers are not an interrupt's but those of the system call. The registers spare a
 * task in user mode from what is above them: the interrupt's own path may be patched.
 */
static void look_here(void *argument)
{
	struct look *look = argument;

	if (current != look->task) {
		look->error = -EAGAIN;
	} else if (hardirq_count() && interrupts_user()) {
		look->error = 0;
		rb_set_universe(current, rb_goal);
	} else {
		move_if_clean(look);
	}
}

/* A task may leave its CPU, or come to another one, between the two ways to look. */
int rb_move(struct rb_transition *t, struct task_struct *task)
{
	struct look look = { .task = task };
	unsigned int n;

	for (n = 0; n < RUNNING_TRIES; n++) {
		t->patch->stats.walked++;
		look_at(&look);
		if (look.error != -EAGAIN)
			break;
		if (smp_call_function_single(task_cpu(task), look_here, &look, true))
			look.error = -EAGAIN;	/* the CPU is offline by now */
		if (look.error != -EAGAIN)
			break;
	}
	if (look.error)
		rb_held_add(&t->held, task, look.error == -EBUSY ? look.where : 0);
	return look.error;
}

void rb_pertask_self(void)
{
	struct look look = { .task = current };
	unsigned long flags;

	mutex_lock(&rb_mutex);
	/* with interrupts off current stays what it is while it is walked */
	local_irq_save(flags);
	if (rb_left_behind(current))
		move_if_clean(&look);
	local_irq_restore(flags);
	mutex_unlock(&rb_mutex);
}

bool rb_move_init(void)
{
#ifdef RB_TASK_CALL_FUNC
	return rb_resolve(task_call_func);
#else
	return rb_resolve(try_invoke_on_locked_down_task);
#endif
}
