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

#include <asm/unwind.h>
#include <linux/cpu.h>
#include <linux/jiffies.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/smp.h>
#include <linux/tracepoint.h>
#include <linux/wait.h>

#include "core.h"

#define RUNNING_TRIES	3
#define PAUSE_MAX	(HZ / 10)
#define WAKE_PAUSE	HZ

unsigned long rb_universe;
static atomic_long_t newcomers;		/* tasks that have been woken for the first time */
static unsigned long goal;	/* 0 or 1 */

/* Of the transition that goes on, guarded by rb_mutex. */
static unsigned int rounds;		/* attempts since it began, turned or woke someone */
static bool asked;			/* those left behind were asked to move themselves */
static bool woke;
static unsigned long wake_due;		/* jiffies: the next time */

#ifdef RB_TASK_CALL_FUNC
RB_FUNCTION(task_call_func);
#else
RB_FUNCTION(try_invoke_on_locked_down_task);
#endif

static bool has_idle_task, has_pin, has_probe;

static unsigned long base(void)
{
	return !!(rb_universe & RB_BASE);
}

static bool bit_is(struct task_struct *task, unsigned long value)
{
	return test_tsk_thread_flag(task, RB_TASK_BIT) == !!value;
}

static void set_universe(struct task_struct *task, unsigned long value)
{
	if (value)
		set_tsk_thread_flag(task, RB_TASK_BIT);
	else
		clear_tsk_thread_flag(task, RB_TASK_BIT);
}

static bool left_behind(struct task_struct *task)
{
	return !bit_is(task, goal);
}

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
		set_universe(look->task, goal);
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
		set_universe(task, goal);
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
		set_universe(current, goal);
	} else {
		move_if_clean(look);
	}
}

/* A task may leave its CPU, or come to another one, between the two ways to look. */
static int move(struct rb_transition *t, struct task_struct *task)
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

static void move_idle_tasks(struct rb_transition *t)
{
	struct task_struct *task;
	int cpu;

	cpus_read_lock();
	for_each_possible_cpu(cpu) {
		task = rb_idle(cpu);
		if (!left_behind(task))
			continue;
		if (cpu_online(cpu))
			move(t, task);
		else
			set_universe(task, goal);
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
		if (left_behind(task))
			move(t, task);
	}
	rcu_read_unlock();
	move_idle_tasks(t);
	if (!t->held.left)
		return 0;
	/* most that are busy at the first look are not at the second */
	if (rounds > 1 && !asked) {
		rb_ask_all(left_behind);
		asked = true;
	}
	return -EAGAIN;
}

void rb_pertask_self(void)
{
	struct look look = { .task = current };
	unsigned long flags;

	mutex_lock(&rb_mutex);
	/* with interrupts off current stays what it is while it is walked */
	local_irq_save(flags);
	if (left_behind(current))
		move_if_clean(&look);
	local_irq_restore(flags);
	mutex_unlock(&rb_mutex);
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
	set_universe(task, smp_load_acquire(&goal));
}

bool rb_newcomers(long *count)
{
	*count = atomic_long_read(&newcomers);
	return has_probe;
}

static void set_goal(unsigned long value)
{
	/* pairs with new_task() */
	smp_store_release(&goal, value);
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
	smp_store_release(&rb_universe, goal ? RB_BASE : 0);
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
	t->patch->stats.signalled += rb_wake_all(left_behind);
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
		set_universe(task, value);
	rcu_read_unlock();
	for_each_possible_cpu(cpu)
		set_universe(rb_idle(cpu), value);
}

static int force(struct rb_transition *t)
{
	set_all(goal);
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
#ifdef RB_TASK_CALL_FUNC
	has_pin = rb_resolve(task_call_func);
#else
	has_pin = rb_resolve(try_invoke_on_locked_down_task);
#endif
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
