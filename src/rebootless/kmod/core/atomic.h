/* SPDX-License-Identifier: GPL-2.0-only */
/* One attempt of the atomic engine: what its walk (atomic.c) tells its stop (atomic_stop.c). */
#ifndef _RB_ATOMIC_H
#define _RB_ATOMIC_H

#include "core.h"

/* What the walk found. */
struct rb_seen {
	struct task_struct *task;
	unsigned long switches;
	unsigned long where;
	int result;		/* of rb_stack_check(); -EINPROGRESS: it ran */
};

struct rb_blocker {
	struct task_struct *task;
	unsigned long where;
};

struct rb_attempt {
	struct rb_transition *transition;
	bool force;
	struct rb_seen *seen;
	unsigned int count, size;
	bool all;		/* `seen` has every task that had begun to run ... */
	long newcomers;		/* ... when this was the count of those */
	/* within the stop */
	unsigned int cursor;
	unsigned int rewalked;
	u64 budget_ns, begun_ns, stop_ns;
	struct rb_blocker blockers[RB_HELD_MAX];
	unsigned int blocked;
	int result;
	unsigned int cpu;	/* that decides: the one that has just seen all tasks */
	bool done;
};

/* Grows each time that the task is switched away from, before its stack is left. */
static inline unsigned long rb_switches(struct task_struct *task)
{
	return READ_ONCE(task->nvcsw) + READ_ONCE(task->nivcsw);
}

static inline bool rb_is_known(const struct rb_seen *seen)
{
	return seen->result != -EINPROGRESS && rb_switches(seen->task) == seen->switches;
}

/* Stops everything, looks at what the walk has not, and switches all sites or none. */
int rb_atomic_stop(struct rb_attempt *a);

#endif /* _RB_ATOMIC_H */
