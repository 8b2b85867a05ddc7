// SPDX-License-Identifier: GPL-2.0
/*
 * Two functions whose versions must not mix within one call, for rl_halves_patch to change
 * both. Each write of a number N to /proc/rl_halves makes N calls; a read tells of the calls
 * that were made through the same open file. The parameter `turns` is how often a call was of
 * another version than the one before it, whoever made them; of `naps` calls one sleeps.
 */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>

#include "rl_halves.h"

unsigned int rl_naps = 64;
EXPORT_SYMBOL_GPL(rl_naps);
module_param_named(naps, rl_naps, uint, 0644);

static unsigned long turns;
module_param(turns, ulong, 0444);

void rl_turn(int version)
{
	static DEFINE_SPINLOCK(lock);
	static int last;

	spin_lock(&lock);
	turns += version != last;
	last = version;
	spin_unlock(&lock);
}
EXPORT_SYMBOL_GPL(rl_turn);

RL_WHOLE int rl_inner(int pause)
{
	if (pause)
		usleep_range(100, 200);
	return 0;
}
EXPORT_SYMBOL_GPL(rl_inner);

RL_WHOLE void rl_outer(struct rl_count *count)
{
	rl_meet(count, 0);
}
EXPORT_SYMBOL_GPL(rl_outer);

static int halves_open(struct inode *inode, struct file *file)
{
	file->private_data = kzalloc(sizeof(struct rl_count), GFP_KERNEL);
	return file->private_data ? 0 : -ENOMEM;
}

static int halves_release(struct inode *inode, struct file *file)
{
	kfree(file->private_data);
	return 0;
}

static ssize_t halves_write(struct file *file, const char __user *text, size_t size, loff_t *at)
{
	unsigned long calls;
	int error = kstrtoul_from_user(text, size, 10, &calls);

	if (error)
		return error;
	while (calls-- && !fatal_signal_pending(current)) {
		rl_outer(file->private_data);
		cond_resched();
	}
	return size;
}

static ssize_t halves_read(struct file *file, char __user *to, size_t size, loff_t *at)
{
	struct rl_count *count = file->private_data;
	char text[100];
	int length = scnprintf(text, sizeof(text), "%llu %llu %llu %llu %d\n", count->calls,
			       count->mixes, count->ups, count->downs, count->version);

	return simple_read_from_buffer(to, size, at, text, length);
}

static const struct proc_ops halves_ops = {
	.proc_open = halves_open,
	.proc_release = halves_release,
	.proc_write = halves_write,
	.proc_read = halves_read,
};

static int __init halves_init(void)
{
	return proc_create("rl_halves", 0600, NULL, &halves_ops) ? 0 : -ENOMEM;
}

static void __exit halves_exit(void)
{
	remove_proc_entry("rl_halves", NULL);
}

module_init(halves_init);
module_exit(halves_exit);
MODULE_DESCRIPTION("rebootless test: two functions that belong together");
MODULE_LICENSE("GPL");
