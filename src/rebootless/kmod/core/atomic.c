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

#include <linux/cpumask.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/stop_machine.h>
#include <linux/timekeeping.h>
#include <asm/sync_core.h>

#include "core.h"

/* Tasks that come while we allocate; those beyond are walked within the stop. */
#define SLACK 64
/* How long we look at stacks within a stop, and how much longer when that was too short. */
#define BUDGET_NS (1 * NSEC_PER_MSEC)
#define BUDGET_MAX_NS (16 * NSEC_PER_MSEC)
#define PAUSE_MAX_MS 250U
#define PAUSE_WOKEN_MS 20U

static unsigned int tries = 45;		/* with the pauses between them about 10 seconds */
module_param(tries, uint, 0644);
MODULE_PARM_DESC(tries, "atomic: how often a transition is tried before it is taken back");

/* What the walk found. */
struct seen {
	struct task_struct *task;
	unsigned long switches;
	unsigned long where;
	int result;		/* of rb_stack_check(); -EINPROGRESS: it ran */
};

struct blocker {
	struct task_struct *task;
	unsigned long where;
};

struct attempt {
	struct rb_transition *transition;
	bool force;
	struct seen *seen;
	unsigned int count, size;
	bool all;		/* `seen` has every task that had begun to run ... */
	long newcomers;		/* ... when this was the count of those */
	/* within the stop */
	unsigned int cursor;
	unsigned int rewalked;
	u64 budget_ns, begun_ns, stop_ns;
	struct blocker blockers[RB_HELD_MAX];
	unsigned int blocked;
	int result;
	unsigned int cpu;	/* that decides: the one that has just seen all tasks */
	bool done;
};

/* Grows each time that the task is switched away from, before its stack is left. */
static unsigned long switches(struct task_struct *task)
{
	return READ_ONCE(task->nvcsw) + READ_ONCE(task->nivcsw);
}

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

static int gather(struct attempt *a)
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
		a->seen[a->count++] = (struct seen){ get_task_struct(task), .result = -EINPROGRESS };
	}
full:
	rcu_read_unlock();
	return 0;
}

static void look(struct seen *seen)
{
	seen->switches = switches(seen->task);
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

static bool is_known(const struct seen *seen)
{
	return seen->result != -EINPROGRESS && switches(seen->task) == seen->switches;
}

static void walk(struct attempt *a)
{
	unsigned int n, pass;

	for (pass = 0; pass < 2; pass++) {
		for (n = 0; n < a->count; n++) {
			if (!is_known(&a->seen[n]))
				look(&a->seen[n]);
			cond_resched();
		}
	}
}

/* Whether somebody who does not run is in the code, or on a stack that cannot be read. */
static bool is_held(struct attempt *a)
{
	struct rb_held *held = &a->transition->held;
	unsigned int n;

	for (n = 0; n < a->count; n++) {
		if (a->seen[n].result && is_known(&a->seen[n]))
			rb_held_add(held, a->seen[n].task, a->seen[n].where);
	}
	return held->left;
}

/*
 * Tasks stay in the order in which they were gathered; some have gone, new ones have
 * come. One that is not found near its place is walked again, no harm done.
 */
static struct seen *find(struct attempt *a, struct task_struct *task)
{
	unsigned int n, end;

	/* the usual case without touching more of the task than needed */
	if (a->cursor < a->count && a->seen[a->cursor].task == task)
		return &a->seen[a->cursor++];
	while (a->cursor < a->count && !pid_alive(a->seen[a->cursor].task))
		a->cursor++;
	end = min(a->cursor + 16, a->count);
	for (n = a->cursor; n < end; n++) {
		if (a->seen[n].task == task) {
			a->cursor = n + 1;
			return &a->seen[n];
		}
	}
	return NULL;
}

static void block(struct attempt *a, struct task_struct *task, unsigned long where)
{
	if (a->blocked == ARRAY_SIZE(a->blockers))
		return;
	get_task_struct(task);
	a->blockers[a->blocked++] = (struct blocker){ task, where };
}

static int check(struct attempt *a, struct task_struct *task, struct seen *seen)
{
	unsigned long where;

	if (seen && is_known(seen)) {
		if (seen->result)
			block(a, task, seen->where);
		return 0;
	}
	if (rb_on_cpu(task) && task != current)
		return 0;		/* a stopper */
	if (!(++a->rewalked % 8) && ktime_get_ns() - a->begun_ns > a->budget_ns)
		return -ETIME;
	if (rb_stack_check(task, &where))
		block(a, task, where);
	return 0;
}

/*
 * Nobody has begun to run since the tasks were gathered: the list is not needed, which
 * costs twice the time. Those that have ended are dead, or were walked.
 */
static bool is_complete(const struct attempt *a)
{
	long newcomers;

	return a->all && rb_newcomers(&newcomers) && newcomers == a->newcomers;
}

/* The tasks that did not run are all but a few, and the length of the stop. */
static int check_seen(struct attempt *a)
{
	struct seen *seen = a->seen, *end = a->seen + a->count;
	int error = 0;

	for (; !error && seen < end; seen++) {
		if (unlikely(seen->result || switches(seen->task) != seen->switches))
			error = check(a, seen->task, seen);
	}
	return error;
}

static int check_list(struct attempt *a)
{
	struct task_struct *process, *task;
	int error;

	for_each_process_thread(process, task) {
		error = check(a, task, find(a, task));
		if (error)
			return error;
	}
	return 0;
}

/*
 * All other CPUs are in the same function of the stopper as this one, so its own
 * stack stands for theirs; all other tasks are off their CPUs.
 */
static int check_all(struct attempt *a)
{
	unsigned int cpu;
	int error;

	error = check(a, current, NULL);
	for_each_online_cpu(cpu) {
		if (!error)
			error = check(a, rb_idle(cpu), NULL);
	}
	if (!error)
		error = is_complete(a) ? check_seen(a) : check_list(a);
	if (error)
		return error;
	return a->blocked ? -EAGAIN : 0;
}

static bool is_changed(const struct rb_site *site)
{
	return site->now != site->then;
}

static int all_ready(void)
{
	struct rb_site *site;

	list_for_each_entry(site, &rb_sites, list) {
		if (is_changed(site) && site->redirect->ready && !site->redirect->ready(site))
			return -EBUSY;
	}
	return 0;
}

static void switch_all(void)
{
	struct rb_site *site;

	list_for_each_entry(site, &rb_sites, list) {
		if (!is_changed(site))
			continue;
		WRITE_ONCE(site->now, site->then);
		if (site->redirect->switched)
			site->redirect->switched(site);
	}
}

static int decide(struct attempt *a)
{
	int error = 0;

	a->begun_ns = ktime_get_ns();
	if (!a->force)
		error = check_all(a);
	if (!error)
		error = all_ready();
	if (!error)
		switch_all();
	a->stop_ns = ktime_get_ns() - a->begun_ns;
	return error;
}

/* On all CPUs, interrupts off. */
static int stopped(void *data)
{
	struct attempt *a = data;

	unsigned int cpu = cpu_online(a->cpu) ? a->cpu : cpumask_first(cpu_online_mask);

	if (smp_processor_id() == cpu) {
		a->result = decide(a);
		/* pairs with the acquire below: the code is what it is before others go on */
		smp_store_release(&a->done, true);
	} else {
		/* pairs with the release above */
		while (!smp_load_acquire(&a->done))
			cpu_relax();
	}
	/* nothing of the old code is left in this CPU's pipeline */
	sync_core();
	return 0;
}

static void settle(const struct rb_site *end)
{
	struct rb_site *site;

	list_for_each_entry(site, &rb_sites, list) {
		if (site == end)
			break;
		if (site->alias)
			site->redirect->settle(site);
	}
}

static int prepare(void)
{
	struct rb_site *site;
	int error;

	list_for_each_entry(site, &rb_sites, list) {
		if (!is_changed(site) || !site->redirect->prepare)
			continue;
		error = site->redirect->prepare(site);
		if (error) {
			settle(site);
			return error;
		}
	}
	return 0;
}

static int stop(struct attempt *a)
{
	struct rb_stats *stats = &a->transition->patch->stats;
	unsigned int n;
	int error;

	error = prepare();
	if (error)
		return error;
	a->budget_ns = min_t(u64, BUDGET_NS << min(stats->attempts / 4, 8U), BUDGET_MAX_NS);
	a->cpu = raw_smp_processor_id();
	error = stop_machine(stopped, a, cpu_online_mask);
	if (!error)
		error = a->result;
	settle(NULL);
	stats->rewalked = a->rewalked;
	stats->walked += a->rewalked;
	if (!error)
		stats->stop_ns = a->stop_ns;
	for (n = 0; n < a->blocked; n++) {
		rb_held_add(&a->transition->held, a->blockers[n].task, a->blockers[n].where);
		put_task_struct(a->blockers[n].task);
	}
	return error;
}

static int try(struct rb_transition *t, bool force)
{
	struct attempt *a = rb_alloc(sizeof(*a));
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
	error = is_held(a) ? -EAGAIN : stop(a);
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
