// SPDX-License-Identifier: GPL-2.0-only
/*
 * What bench/engines.py patches.
 *
 *	/proc/bench_calls	a read calls bench_called() a million times and tells
 *				the nanoseconds that took
 *	/proc/bench_sleep	a read sleeps in bench_sleeping() until a signal comes,
 *				and then sleeps there again
 */
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/wait.h>

#define CALLS 1000000

static DECLARE_WAIT_QUEUE_HEAD(never);

int bench_called(int number);
int bench_sleeping(void);

noinline int bench_called(int number)
{
	barrier();
	return number + 1;
}

/* The condition is false for good. */
noinline int bench_sleeping(void)
{
	return wait_event_interruptible(never, READ_ONCE(never.head.next) == NULL);
}

static int calls_show(struct seq_file *file, void *unused)
{
	u64 begin = ktime_get_ns();
	int sum = 0;
	int n;

	for (n = 0; n < CALLS; n++)
		sum = bench_called(sum);
	seq_printf(file, "%llu\n", ktime_get_ns() - begin);
	return 0;
}

static int sleep_show(struct seq_file *file, void *unused)
{
	return bench_sleeping();
}

static int __init target_init(void)
{
	proc_create_single("bench_calls", 0444, NULL, calls_show);
	proc_create_single("bench_sleep", 0444, NULL, sleep_show);
	return 0;
}

static void __exit target_exit(void)
{
	remove_proc_entry("bench_calls", NULL);
	remove_proc_entry("bench_sleep", NULL);
}

module_init(target_init);
module_exit(target_exit);
MODULE_DESCRIPTION("what bench/engines.py patches");
MODULE_LICENSE("GPL");
