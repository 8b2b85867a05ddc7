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
 * TWA_RESUME will not do: it does not wake a sleeper, so its work would be there for
 * as long as the task sleeps, and with it our code.
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

#include "core.h"

struct wakeup {
	struct callback_head work;
	struct hlist_node node;
	struct task_struct *task;
};

static DEFINE_HASHTABLE(wakeups, 8);	/* by task */
static DEFINE_SPINLOCK(wakeups_lock);

RB_FUNCTION(wake_up_state);
static bool can_wake_threads;

#ifdef RB_TASK_WORK_MATCH
RB_FUNCTION(task_work_cancel_match);
#else
RB_FUNCTION(task_work_cancel);
#endif
static bool can_cancel;

static bool waits(struct task_struct *task)
{
	struct wakeup *wakeup;

	hash_for_each_possible(wakeups, wakeup, node, (unsigned long)task) {
		if (wakeup->task == task)
			return true;
	}
	return false;
}

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
	spin_lock(&wakeups_lock);
	hash_del(&wakeup->node);
	spin_unlock(&wakeups_lock);
	let_go(wakeup);
}

static bool wake_user(struct task_struct *task)
{
	struct wakeup *wakeup;
	bool known;

	spin_lock(&wakeups_lock);
	known = waits(task);
	spin_unlock(&wakeups_lock);
	if (known)
		return false;	/* told already, and has not come yet */
	wakeup = rb_alloc(sizeof(*wakeup));
	if (!wakeup)
		return false;	/* it is tried again */
	init_task_work(&wakeup->work, woken);
	wakeup->task = task;
	get_task_struct(task);
	__module_get(THIS_MODULE);
	spin_lock(&wakeups_lock);
	hash_add(wakeups, &wakeup->node, (unsigned long)task);
	spin_unlock(&wakeups_lock);
	if (!task_work_add(task, &wakeup->work, TWA_SIGNAL))
		return true;
	/* it ends, and has run its last task work */
	spin_lock(&wakeups_lock);
	hash_del(&wakeup->node);
	spin_unlock(&wakeups_lock);
	let_go(wakeup);
	return false;
}

bool rb_wake(struct task_struct *task)
{
	if (!(task->flags & PF_KTHREAD))
		return wake_user(task);
	return can_wake_threads && rb_call(wake_up_state)(task, TASK_INTERRUPTIBLE);
}

/*
 * Tasks are collected first: waking them allocates, which must not be done in an RCU
 * read section. Those that come to be between counting and collecting may be left out.
 */
unsigned int rb_wake_all(bool (*which)(struct task_struct *task))
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
		told += rb_wake(tasks[n]);
		put_task_struct(tasks[n]);
	}
	rb_free(tasks);
	return told;
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
