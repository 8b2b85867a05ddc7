// SPDX-License-Identifier: GPL-2.0
/*
 * Two kernel threads: rl_ticker never sleeps and half of the time is in rl_tick(), rl_waiter
 * sleeps in rl_wait() until it is woken, and then a moment outside. /proc/rl_threads shows
 * the versions of the functions that they called last. Who reads /proc/rl_wait sleeps there
 * as well. While the parameter `deaf` is set nobody can be woken from that.
 */
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/seq_file.h>

#define RL_WHOLE __attribute__((__noipa__))

static bool deaf;
module_param(deaf, bool, 0644);

static struct task_struct *ticker, *waiter;
static int ticked = -1, waited = -1;

RL_WHOLE int rl_tick(void)
{
	int n;

	for (n = 0; n < 200; n++)
		cpu_relax();
	return 0;
}

RL_WHOLE int rl_wait(void)
{
	if (!READ_ONCE(deaf))
		schedule_timeout_interruptible(MAX_SCHEDULE_TIMEOUT);
	while (READ_ONCE(deaf))
		schedule_timeout_uninterruptible(HZ / 50);
	return 0;
}

static int tick(void *data)
{
	int n;

	while (!kthread_should_stop()) {
		WRITE_ONCE(ticked, rl_tick());
		for (n = 0; n < 200; n++)
			cpu_relax();
		cond_resched_tasks_rcu_qs();	/* or ftrace would wait for us for ever */
	}
	return 0;
}

static int wait(void *data)
{
	while (!kthread_should_stop()) {
		WRITE_ONCE(waited, rl_wait());
		schedule_timeout_uninterruptible(HZ / 10);
	}
	return 0;
}

static int threads_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%d %d\n", READ_ONCE(ticked), READ_ONCE(waited));
	return 0;
}

static int wait_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%d\n", rl_wait());
	return 0;
}

static int __init threads_init(void)
{
	if (!proc_create_single("rl_threads", 0444, NULL, threads_show) ||
	    !proc_create_single("rl_wait", 0444, NULL, wait_show)) {
		remove_proc_entry("rl_threads", NULL);
		return -ENOMEM;
	}
	ticker = kthread_run(tick, NULL, "rl_ticker");
	waiter = kthread_run(wait, NULL, "rl_waiter");
	return 0;
}

static void __exit threads_exit(void)
{
	if (!IS_ERR(ticker))
		kthread_stop(ticker);
	if (!IS_ERR(waiter))
		kthread_stop(waiter);
	remove_proc_entry("rl_threads", NULL);
	remove_proc_entry("rl_wait", NULL);
}

module_init(threads_init);
module_exit(threads_exit);
MODULE_DESCRIPTION("rebootless test: kernel threads");
MODULE_LICENSE("GPL");
