// SPDX-License-Identifier: GPL-2.0-only
/*
 * The atomic engine's stop: on one CPU, with all others waiting and interrupts off, it is
 * seen whether anybody is in the code, and all sites are switched if nobody is.
 *
 * What the walk found holds for each task that has not run since. The others are walked
 * here, idle tasks and the stopper as well.
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/cpumask.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/stop_machine.h>
#include <linux/timekeeping.h>
#include <asm/sync_core.h>

#include "atomic.h"

/* How long we look at stacks within a stop, and how much longer when that was too short. */
#define BUDGET_NS (1 * NSEC_PER_MSEC)
#define BUDGET_MAX_NS (16 * NSEC_PER_MSEC)

/*
 * Tasks stay in the order in which they were gathered; some have gone, new ones have
 * come. One that is not found near its place is walked again, no harm done.
 */
static struct rb_seen *find(struct rb_attempt *a, struct task_struct *task)
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

static void block(struct rb_attempt *a, struct task_struct *task, unsigned long where)
{
	if (a->blocked == ARRAY_SIZE(a->blockers))
		return;
	get_task_struct(task);
	a->blockers[a->blocked++] = (struct rb_blocker){ task, where };
}

static int check(struct rb_attempt *a, struct task_struct *task, struct rb_seen *seen)
{
	unsigned long where;

	if (seen && rb_is_known(seen)) {
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
static bool is_complete(const struct rb_attempt *a)
{
	long newcomers;

	return a->all && rb_newcomers(&newcomers) && newcomers == a->newcomers;
}

/* The tasks that did not run are all but a few, and the length of the stop. */
static int check_seen(struct rb_attempt *a)
{
	struct rb_seen *seen = a->seen, *end = a->seen + a->count;
	int error = 0;

	for (; !error && seen < end; seen++) {
		if (unlikely(seen->result || rb_switches(seen->task) != seen->switches))
			error = check(a, seen->task, seen);
	}
	return error;
}

static int check_list(struct rb_attempt *a)
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
static int check_all(struct rb_attempt *a)
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

static int decide(struct rb_attempt *a)
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
	struct rb_attempt *a = data;

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

int rb_atomic_stop(struct rb_attempt *a)
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
