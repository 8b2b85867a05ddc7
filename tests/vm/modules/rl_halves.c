// SPDX-License-Identifier: GPL-2.0
/*
 * A function that calls another one. The patch rl_newer replaces both, so a call of the
 * outer function is either all old or all new; what each call was is noted here.
 *
 * /proc/rl_halves calls it as often as it is read, without end.
 * Parameters: calls; mixes (calls that were neither all old nor all new); turns (how often a call
 * was not what the call before it was, on whatever CPU).
 */
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/spinlock.h>

#include "rl_halves.h"

static DEFINE_SPINLOCK(lock);
static unsigned long calls, mixes, turns;
module_param(calls, ulong, 0444);
module_param(mixes, ulong, 0444);
module_param(turns, ulong, 0444);

void rl_note(int outer, int inner)
{
	static int last = RL_OLD;

	spin_lock(&lock);
	calls++;
	mixes += outer != inner;
	turns += outer != last;
	last = outer;
	spin_unlock(&lock);
}
EXPORT_SYMBOL_GPL(rl_note);

RL_FUNCTION int rl_inner(void)
{
	return RL_OLD;
}
EXPORT_SYMBOL_GPL(rl_inner);

static RL_FUNCTION void rl_outer(void)
{
	cond_resched();
	rl_note(RL_OLD, rl_inner());
	cond_resched();
}

static ssize_t rl_read(struct file *file, char __user *buffer, size_t size, loff_t *offset)
{
	int n;

	for (n = 0; n < 50; n++) {
		rl_outer();
		cond_resched();
	}
	return clear_user(buffer, size) ? -EFAULT : size;
}

static const struct proc_ops rl_operations = { .proc_read = rl_read };

static int __init rl_init(void)
{
	return proc_create("rl_halves", 0444, NULL, &rl_operations) ? 0 : -ENOMEM;
}

static void __exit rl_exit(void)
{
	remove_proc_entry("rl_halves", NULL);
}

module_init(rl_init);
module_exit(rl_exit);
MODULE_DESCRIPTION("rebootless test: a function in two halves");
MODULE_LICENSE("GPL");
