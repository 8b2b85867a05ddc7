// SPDX-License-Identifier: GPL-2.0-only
/*
 * The atomic engine: everything stops, every stack is looked at, and all functions
 * switch together or none does.
 *
 * The stop is short because most stacks are walked before it:
 *
 *	gather		all tasks, each held by a reference
 *	walk		those that do not run, each remembered with the number of times it
 *			was switched away from; twice, as many have moved meanwhile
 *	held?		somebody asleep in the code: no stop at all, try again later
 *	stop		what the walk found holds for each task whose number is still the
 *			same; walk the others, new ones, idle tasks and the stopper
 *	switch		if nobody is in the code, else try again later
 *
 * A task that has left the list of tasks in do_exit() and waits for its last moment is
 * seen by nobody, as with mainline's livepatch.
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "atomic.h"

/* Tasks that come while we allocate; those beyond are walked within the stop. */
#define SLACK 64
#define PAUSE_MAX_MS 250U
#define PAUSE_WOKEN_MS 20U

static unsigned int tries = 45;		/* with the pauses between them about 10 seconds */
module_param(tries, uint, 0644);
MODULE_PARM_DESC(tries, "atomic: how often a transition is tried before it is taken back");

static unsigned int count_tasks(void)
{
	struct task_struct *process, *task;
	unsigned int tasks = 0;

	rcu_read_lock();
	for_each_process_thread(process, task)
		tasks++;
	rcu_read_unlock();
	return tasks;
}

static int gather(struct rb_attempt *a)
{
	struct task_struct *process, *task;

	a->size = count_tasks();
	a->size += a->size / 8 + SLACK;
	a->seen = rb_alloc(a->size * sizeof(*a->seen));
	if (!a->seen)
		return -ENOMEM;
	a->all = rb_newcomers(&a->newcomers);
	smp_rmb();	/* pairs with the lock under which a task gets into the list, and runs later */
	rcu_read_lock();
	for_each_process_thread(process, task) {
		if (a->count == a->size) {
			a->all = false;
			goto full;
		}
		a->seen[a->count++] = (struct rb_seen){ get_task_struct(task), .result = -EINPROGRESS };
	}
full:
	rcu_read_unlock();
	return 0;
}

static void look(struct rb_seen *seen)
{
	seen->switches = rb_switches(seen->task);
	/*
	 * The number first: if the task is off its CPU now, then whatever it does later
	 * makes the number grow. Pairs with the scheduler, which counts before it leaves
	 * the stack and lets go of on_cpu after that.
	 */
	smp_rmb();
	if (rb_on_cpu(seen->task))
		seen->result = -EINPROGRESS;
	else
		seen->result = rb_stack_check(seen->task, &seen->where);
}

static void walk(struct rb_attempt *a)
{
	unsigned int n, pass;

	for (pass = 0; pass < 2; pass++) {
		for (n = 0; n < a->count; n++) {
			if (!rb_is_known(&a->seen[n]))
				look(&a->seen[n]);
			cond_resched();
		}
	}
}

/* Whether somebody who does not run is in the code, or on a stack that cannot be read. */
static bool is_held(struct rb_attempt *a)
{
	struct rb_held *held = &a->transition->held;
	unsigned int n;

	for (n = 0; n < a->count; n++) {
		if (a->seen[n].result && rb_is_known(&a->seen[n]))
			rb_held_add(held, a->seen[n].task, a->seen[n].where);
	}
	return held->left;
}

static int try(struct rb_transition *t, bool force)
{
	struct rb_attempt *a = rb_alloc(sizeof(*a));
	unsigned int n;
	int error;

	if (!a)
		return -ENOMEM;
	a->transition = t;
	a->force = force;
	t->held.left = 0;
	t->held.count = 0;
	error = force ? 0 : gather(a);
	if (error)
		goto out;
	walk(a);
	t->patch->stats.walked = a->count;
	t->patch->stats.rewalked = 0;
	error = is_held(a) ? -EAGAIN : rb_atomic_stop(a);
	for (n = 0; n < a->count; n++)
		put_task_struct(a->seen[n].task);
	rb_free(a->seen);
out:
	rb_free(a);
	return error;
}

static int usable(void)
{
	if (!rb_stack_reliable()) {
		pr_err("this kernel's stacks cannot be read reliably, which engine atomic needs\n");
		return -EOPNOTSUPP;
	}
	if (!rb_idle(0)) {
		pr_err("the kernel's idle_task() is not found\n");
		return -EOPNOTSUPP;
	}
	return 0;
}

static int begin(struct rb_transition *t)
{
	return 0;
}

/* Nothing has moved before all has: a transition that is turned back is over. */
static int attempt(struct rb_transition *t)
{
	int error;

	if (t->reverse)
		return 0;
	t->patch->stats.attempts++;
	error = try(t, false);
	if (error && !t->held.left)
		t->held.left = 1;	/* something else holds it: the log tells */
	return error ? -EAGAIN : 0;
}

static void turn(struct rb_transition *t)
{
}

/* The answer may be wrong for a task that runs: it is told for nothing, or next time. */
static bool holds(struct task_struct *task)
{
	return task != current && rb_stack_check(task, NULL);
}

static void wake(struct rb_transition *t)
{
	t->patch->stats.signalled += rb_park_all(holds);
}

static int force(struct rb_transition *t)
{
	int error = t->reverse ? 0 : try(t, true);

	if (error)
		pr_err("some functions are held by somebody else: nothing is switched (%d)\n",
		       error);
	return error;
}

static void finish(struct rb_transition *t)
{
	struct rb_site *site;

	rb_wake_end();
	if (!t->reverse)
		return;		/* the stop has done it */
	list_for_each_entry(site, &rb_sites, list)
		site->then = site->now;
}

/* Who has just been woken may be back soon: every other attempt follows the signals closely. */
static unsigned long pause(struct rb_transition *t)
{
	unsigned int attempts = t->patch->stats.attempts;
	unsigned int ms = min(2U << min(attempts, 8U), PAUSE_MAX_MS);

	if (attempts >= tries)
		return 0;
	if (t->signal && attempts % 2)
		ms = min(ms, PAUSE_WOKEN_MS);
	return msecs_to_jiffies(ms) ?: 1;
}

const struct rb_engine rb_engine_atomic = {
	.name = "atomic",
	.usable = usable,
	.begin = begin,
	.attempt = attempt,
	.turn = turn,
	.signal = wake,
	.force = force,
	.finish = finish,
	.pause = pause,
};
