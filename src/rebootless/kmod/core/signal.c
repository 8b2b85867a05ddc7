// SPDX-License-Identifier: GPL-2.0-only
/*
 * Wakes tasks that hold a transition, so that they leave the kernel or pass through
 * their loop.
 *
 * A user task gets a task work with TWA_SIGNAL: it wakes up as if a signal had come,
 * leaves its system call, runs the work on its way and finds no signal then. What user
 * space sees of it is a matter of the system call: read(), poll(), futex() and
 * nanosleep() start again silently, but epoll_wait() and a few others (those that
 * signal(7) lists as never restarted) return EINTR. So this is only done when asked.
 * A task in uninterruptible sleep, or stopped, is told as well and comes later.
 *
 * On its way the task moves itself, where the per-task engine is at work. Without that
 * it would come back to the same sleep, in old code, before anyone has looked.
 *
 * Before that, tasks are asked: a task work with TWA_RESUME wakes nobody and interrupts
 * nothing, it runs when the task leaves the kernel the next time. That is all that busy
 * tasks need which are in changed code whenever the pass looks. The trap is a task that
 * sleeps: its work would be there for as long, and with it our code. So asking is only
 * done where the work can be cancelled at the end.
 *
 * A kernel thread has no such way out. It is woken when it sleeps interruptibly, looks
 * whether there is something to do, and sleeps again; if its loop itself is not what
 * is patched, it can be moved meanwhile.
 *
 * Each work that waits holds a reference of its task and one of this module. At most
 * one waits per task. At the end of a transition those that have not run are
 * cancelled; where the kernel gives no way to do that they run when they run, and the
 * module stays until then.
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/hashtable.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/spinlock.h>
#include <linux/task_work.h>
#include <linux/wait.h>

#include "core.h"

struct wakeup {
	struct callback_head work;
	struct hlist_node node;
	struct task_struct *task;
	bool quiet;	/* asked, not woken */
};

static DEFINE_HASHTABLE(wakeups, 8);	/* by task */
static DEFINE_SPINLOCK(wakeups_lock);

/*
 * The atomic engine moves nobody before it moves everybody. A task that was woken for it
 * waits on its way out, so as not to be asleep in the old code again before that: at
 * most so long, and not when it is killed.
 */
#define PARK	(HZ / 2)
static DECLARE_WAIT_QUEUE_HEAD(parked);
static bool parking;

RB_FUNCTION(wake_up_state);
static bool can_wake_threads;

#ifdef RB_TASK_WORK_MATCH
RB_FUNCTION(task_work_cancel_match);
#else
RB_FUNCTION(task_work_cancel);
#endif
static bool can_cancel;

static void let_go(struct wakeup *wakeup)
{
	put_task_struct(wakeup->task);
	rb_free(wakeup);
	module_put(THIS_MODULE);
}

/*
 * In the task itself, mostly where it returns to user space, but io_uring and others
 * run task works deep within a system call: so nothing is taken for granted of the
 * stack. After the last line some instructions of this module are still to come, for
 * which rb_wake_exit() waits.
 */
static void woken(struct callback_head *work)
{
	struct wakeup *wakeup = container_of(work, struct wakeup, work);

	rb_pertask_self();
	wait_event_killable_timeout(parked, !READ_ONCE(parking), PARK);
	spin_lock(&wakeups_lock);
	hash_del(&wakeup->node);
	spin_unlock(&wakeups_lock);
	let_go(wakeup);
}

#ifdef RB_TASK_WORK_MATCH
static bool same(struct callback_head *work, void *wanted)
{
	return work == wanted;
}

static bool cancelled(struct wakeup *wakeup)
{
	return rb_call(task_work_cancel_match)(wakeup->task, same, &wakeup->work);
}
#else
/* Finds works by their function; a task has one of ours at most. */
static bool cancelled(struct wakeup *wakeup)
{
	return rb_call(task_work_cancel)(wakeup->task, woken);
}
#endif

/* The one that waits in the task, taken out if it is to be exchanged; NULL: none. */
static struct wakeup *find(struct task_struct *task, bool quiet, bool *ours)
{
	struct wakeup *wakeup;

	*ours = false;
	hash_for_each_possible(wakeups, wakeup, node, (unsigned long)task) {
		if (wakeup->task != task)
			continue;
		*ours = wakeup->quiet && !quiet && cancelled(wakeup);
		return wakeup;
	}
	return NULL;
}

static struct wakeup *make(struct task_struct *task)
{
	struct wakeup *wakeup = rb_alloc(sizeof(*wakeup));

	if (!wakeup)
		return NULL;
	init_task_work(&wakeup->work, woken);
	wakeup->task = task;
	get_task_struct(task);
	__module_get(THIS_MODULE);
	spin_lock(&wakeups_lock);
	hash_add(wakeups, &wakeup->node, (unsigned long)task);
	spin_unlock(&wakeups_lock);
	return wakeup;
}

static bool tell(struct task_struct *task, bool quiet)
{
	struct wakeup *wakeup;
	bool ours;

	spin_lock(&wakeups_lock);
	wakeup = find(task, quiet, &ours);
	spin_unlock(&wakeups_lock);
	if (wakeup && !ours)
		return false;	/* told already, and has not come yet */
	if (!wakeup)
		wakeup = make(task);
	if (!wakeup)
		return false;	/* no memory; it is tried again */
	wakeup->quiet = quiet;
	if (!task_work_add(task, &wakeup->work, quiet ? TWA_RESUME : TWA_SIGNAL))
		return true;
	/* it ends, and has run its last task work */
	spin_lock(&wakeups_lock);
	hash_del(&wakeup->node);
	spin_unlock(&wakeups_lock);
	let_go(wakeup);
	return false;
}

static bool ask(struct task_struct *task)
{
	return can_cancel && !(task->flags & PF_KTHREAD) && tell(task, true);
}

static bool wake(struct task_struct *task)
{
	if (!(task->flags & PF_KTHREAD))
		return tell(task, false);
	return can_wake_threads && rb_call(wake_up_state)(task, TASK_INTERRUPTIBLE);
}

/*
 * Tasks are collected first: waking them allocates, which must not be done in an RCU
 * read section. Those that come to be between counting and collecting may be left out.
 */
static unsigned int tell_all(bool (*which)(struct task_struct *task),
			     bool (*how)(struct task_struct *task))
{
	struct task_struct *process, *task, **tasks;
	unsigned int n, room = 0, count = 0, told = 0;

	rcu_read_lock();
	for_each_process_thread(process, task)
		room += which(task);
	rcu_read_unlock();
	tasks = room ? rb_alloc(room * sizeof(*tasks)) : NULL;
	if (!tasks)
		return 0;
	rcu_read_lock();
	for_each_process_thread(process, task) {
		if (count < room && which(task)) {
			get_task_struct(task);
			tasks[count++] = task;
		}
	}
	rcu_read_unlock();
	for (n = 0; n < count; n++) {
		told += how(tasks[n]);
		put_task_struct(tasks[n]);
	}
	rb_free(tasks);
	return told;
}

unsigned int rb_wake_all(bool (*which)(struct task_struct *task))
{
	return tell_all(which, wake);
}

unsigned int rb_park_all(bool (*which)(struct task_struct *task))
{
	WRITE_ONCE(parking, true);
	return tell_all(which, wake);
}

void rb_ask_all(bool (*which)(struct task_struct *task))
{
	tell_all(which, ask);
}

/*
 * A work that is not found in its task any more runs, or is about to: it lets go of
 * itself. It cannot do so before it is through with the lock, so all here are alive.
 */
void rb_wake_end(void)
{
	struct wakeup *wakeup;
	struct hlist_node *next;
	HLIST_HEAD(done);
	int bucket;

	WRITE_ONCE(parking, false);
	wake_up_all(&parked);
	if (!can_cancel)
		return;
	spin_lock(&wakeups_lock);
	hash_for_each_safe(wakeups, bucket, next, wakeup, node) {
		if (cancelled(wakeup)) {
			hash_del(&wakeup->node);
			hlist_add_head(&wakeup->node, &done);
		}
	}
	spin_unlock(&wakeups_lock);
	hlist_for_each_entry_safe(wakeup, next, &done, node)
		let_go(wakeup);
}

void rb_wake_init(void)
{
	can_wake_threads = rb_resolve(wake_up_state);
#ifdef RB_TASK_WORK_MATCH
	can_cancel = rb_resolve(task_work_cancel_match);
#else
	can_cancel = rb_resolve(task_work_cancel);
#endif
}

/*
 * No work waits: each has a reference of this module. One may be at the last
 * instructions of woken(), and preempted there: RCU-tasks waits until every task has
 * switched by itself or been in user space.
 */
void rb_wake_exit(void)
{
	synchronize_rcu_tasks();
}
