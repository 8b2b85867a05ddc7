// SPDX-License-Identifier: GPL-2.0-only
/*
 * Engine: each task moves to the new code when its own stack is clean. Nothing stops.
 *
 * A task's universe is one bit of its thread_info. The universes change places with
 * each transition:
 *
 *	rb_universe	bits of the tasks		a call of a site leads to
 *	b		all b				now
 *	b|MOVING	b, or moved: !b			now for b, then for !b
 *	!b		all !b				now, which is what was then
 *
 * `goal` is the bit that tasks move to: !b, or b again when the transition goes back.
 * Without a transition it is b. A bit is only ever set to the goal.
 *
 * Who sets a task's bit, and why no two do so at a time:
 *
 *	- the pass (attempt), for a task that is pinned so that it does not run: by its
 *	  pi_lock and, where needed, the lock of its run queue. A preempted task is such a
 *	  task as well; its stack ends with the registers of the interrupt, from which
 *	  ORC walks on reliably (with frame pointers it is called unreliable, and waits).
 *	- the task itself, where an IPI of the pass has interrupted it. In user mode its
 *	  stack is empty. In the kernel the walk begins at the handler and goes through the
 *	  interrupt's registers to the task's own frames: soft interrupts, other
 *	  interrupts below and our redirections included. A redirection that has read
 *	  its universe but has not jumped yet was called from the site's function, which
 *	  therefore is on the stack. Code that runs in an interrupt belongs to the task
 *	  it interrupted; an NMI cannot be interrupted by the IPI, so its universe
 *	  does not change meanwhile.
 *	- the task itself, out of a task work (signal.c), under rb_mutex. Those that are
 *	  left behind at the second look are asked to do so when they leave the kernel;
 *	  the policy may have them woken for it.
 *	- wake_up_new_task() for a task that has never run: see new_task().
 *	- force(), which asks nobody.
 *
 * The attempt, the turn, begin, finish and the task work all hold rb_mutex, so neither
 * the goal nor what must not be on a stack changes under a walk. The first two rows
 * exclude each other by the task running or not, the third is excluded from both by
 * the mutex. A task that waits for the mutex in its task work sleeps with a clean
 * stack: the pass that keeps it waiting moves it.
 *
 * Order. The bit of a task is written before it runs again (by the locks that pin it),
 * or by itself; rb_universe has been written before any bit. So a task that sees its own
 * new bit sees MOVING too. `then` is written before MOVING (release here, acquire in
 * rb_target()). Likewise in finish(): now is written before MOVING goes.
 *
 * Tasks that the pass does not see:
 *
 *	- between dup_task_struct() and wake_up_new_task(): the child has a copy of its
 *	  parent's bit, of whatever age. It does not run before it has the goal.
 *	- exiting tasks are seen until they are reaped. One that reaps itself runs a last
 *	  stretch of do_exit() unseen. That much is as with mainline: a patch must not
 *	  change what is called from there on (the build's forecast knows exit functions).
 *	- the idle tasks, which are in no list, are gone through by CPU. An idle task
 *	  whose CPU is offline moves at once: it comes back through the start of a CPU.
 *
 * A task that is dead (TASK_DEAD, and off its CPU) has no stack any more, and moves.
 * A kernel thread that never sleeps is met by the IPI; one that sleeps in changed code
 * for ever holds the transition, by name (rb_held).
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/cpu.h>
#include <linux/jiffies.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/tracepoint.h>
#include <linux/wait.h>

#include "pertask.h"

#define PAUSE_MAX	(HZ / 10)
#define WAKE_PAUSE	HZ

unsigned long rb_universe;
static atomic_long_t newcomers;		/* tasks that have been woken for the first time */
unsigned long rb_goal;	/* 0 or 1 */

/* Of the transition that goes on, guarded by rb_mutex. */
static unsigned int rounds;		/* attempts since it began, turned or woke someone */
static bool asked;			/* those left behind were asked to move themselves */
static bool woke;
static unsigned long wake_due;		/* jiffies: the next time */

static bool has_idle_task, has_pin, has_probe;

static unsigned long base(void)
{
	return !!(rb_universe & RB_BASE);
}

static void move_idle_tasks(struct rb_transition *t)
{
	struct task_struct *task;
	int cpu;

	cpus_read_lock();
	for_each_possible_cpu(cpu) {
		task = rb_idle(cpu);
		if (!rb_left_behind(task))
			continue;
		if (cpu_online(cpu))
			rb_move(t, task);
		else
			rb_set_universe(task, rb_goal);
	}
	cpus_read_unlock();
}

/*
 * Tasks that come while we go through the list have the goal (new_task()); those that
 * came before are found, since a list under RCU loses none.
 */
static int attempt(struct rb_transition *t)
{
	struct task_struct *process, *task;

	rounds++;
	t->patch->stats.attempts++;
	t->patch->stats.walked = 0;
	t->held.left = 0;
	t->held.count = 0;
	rcu_read_lock();
	for_each_process_thread(process, task) {
		if (rb_left_behind(task))
			rb_move(t, task);
	}
	rcu_read_unlock();
	move_idle_tasks(t);
	if (!t->held.left)
		return 0;
	/* most that are busy at the first look are not at the second */
	if (rounds > 1 && !asked) {
		rb_ask_all(rb_left_behind);
		asked = true;
	}
	return -EAGAIN;
}

/*
 * A task that has never run has nothing on its stack. This is called in
 * wake_up_new_task(), with the task's pi_lock held and so not while the pass looks
 * at it, for whatever makes a task: fork, kernel threads, workers of io_uring and vhost.
 *
 * It may read a goal that changes just then. set_goal() waits for it, so that
 * the passes that follow see the task's bit, and the task: it is in the list already.
 */
static void new_task(void *data, struct task_struct *task)
{
	atomic_long_inc(&newcomers);
	/* pairs with set_goal(): who has the goal's bit finds rb_universe to be MOVING */
	rb_set_universe(task, smp_load_acquire(&rb_goal));
}

bool rb_newcomers(long *count)
{
	*count = atomic_long_read(&newcomers);
	return has_probe;
}

static void set_goal(unsigned long value)
{
	/* pairs with new_task() */
	smp_store_release(&rb_goal, value);
	/* new_task() runs with preemption off */
	rb_synchronize();
}

static void start_anew(void)
{
	rounds = 0;
	asked = false;
	woke = false;
}

static int begin(struct rb_transition *t)
{
	start_anew();
	/* pairs with rb_target(): `then` is seen by whoever sees MOVING */
	smp_store_release(&rb_universe, rb_universe | RB_MOVING);
	set_goal(!base());
	return 0;
}

static void turn(struct rb_transition *t)
{
	start_anew();
	set_goal(t->reverse ? base() : !base());
}

static void finish(struct rb_transition *t)
{
	struct rb_site *site;

	if (!t->reverse) {
		list_for_each_entry(site, &rb_sites, list)
			WRITE_ONCE(site->now, site->then);
	}
	/* pairs with rb_target(): who finds MOVING gone finds now as it is from here on */
	smp_store_release(&rb_universe, rb_goal ? RB_BASE : 0);
	rb_synchronize();
	/* a redirection that read MOVING before has ended: none reads `then` any more */
	if (t->reverse) {
		list_for_each_entry(site, &rb_sites, list)
			WRITE_ONCE(site->then, site->now);
	}
	rb_wake_end();
}

/*
 * Comes before each attempt, but a kernel thread that is woken needs time to get out of
 * where it sleeps. So nobody is woken more often than once a second, and the pauses of
 * the attempts that follow are short again.
 */
static void wake(struct rb_transition *t)
{
	if (woke && time_before(jiffies, wake_due))
		return;
	t->patch->stats.signalled += rb_wake_all(rb_left_behind);
	woke = true;
	wake_due = jiffies + WAKE_PAUSE;
	rounds = 0;
}

/* Sets every task's bit, whatever the task does. */
static void set_all(unsigned long value)
{
	struct task_struct *process, *task;
	int cpu;

	rcu_read_lock();
	for_each_process_thread(process, task)
		rb_set_universe(task, value);
	rcu_read_unlock();
	for_each_possible_cpu(cpu)
		rb_set_universe(rb_idle(cpu), value);
}

static int force(struct rb_transition *t)
{
	set_all(rb_goal);
	return 0;
}

/* One jiffy after the first attempts, twice as long after four more of them. */
static unsigned long pause(struct rb_transition *t)
{
	return min(1UL << min(rounds / 4, 8U), (unsigned long)PAUSE_MAX);
}

static const char *missing(void)
{
	if (!has_probe)
		return "no tracepoint sched_wakeup_new";
	if (!has_pin)
		return "no way to pin a task";
	if (!has_idle_task)
		return "idle tasks are not found";
	if (!rb_stack_reliable())
		return "stacks cannot be walked reliably";
	return NULL;
}

static int usable(void)
{
	const char *what = missing();

	if (!what)
		return 0;
	pr_err("the engine per-task does not work on this kernel: %s\n", what);
	return -EOPNOTSUPP;
}

const struct rb_engine rb_engine_pertask = {
	.name = "per-task",
	.conditional = true,
	.usable = usable,
	.begin = begin,
	.attempt = attempt,
	.turn = turn,
	.signal = wake,
	.force = force,
	.finish = finish,
	.pause = pause,
};

#ifdef CONFIG_TRACEPOINTS
static struct tracepoint *wakeup_new;

static void find_tracepoint(struct tracepoint *tracepoint, void *data)
{
	if (!strcmp(tracepoint->name, "sched_wakeup_new"))
		wakeup_new = tracepoint;
}

static bool probe(void)
{
	for_each_kernel_tracepoint(find_tracepoint, NULL);
	return wakeup_new && !tracepoint_probe_register(wakeup_new, new_task, NULL);
}

static void unprobe(void)
{
	tracepoint_probe_unregister(wakeup_new, new_task, NULL);
	tracepoint_synchronize_unregister();
}
#else
static bool probe(void)
{
	return false;
}

static void unprobe(void)
{
}
#endif

/* A core that was here before may have left any bit: all tasks begin with 0. */
int rb_pertask_init(void)
{
	rb_wake_init();
	has_pin = rb_move_init();
	has_idle_task = rb_idle(0);
	if (!has_pin || !has_idle_task)
		return 0;
	has_probe = probe();
	if (has_probe)
		set_all(0);
	return 0;
}

void rb_pertask_exit(void)
{
	if (has_probe)
		unprobe();
	rb_wake_exit();
}
