// SPDX-License-Identifier: GPL-2.0
/* A module outside of the kernel's tree: /proc/rl_ledger adds what is written to it. */
#include <linux/kstrtox.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#include "ledger.h"

static unsigned int reads;

static noinline int check(struct seq_file *m)
{
	return m->private ? -EBUSY : 0;
}

static int ledger_show(struct seq_file *m, void *v)
{
	int error = check(m);

	if (error)
		return error;
	reads++;
	seq_printf(m, "sum %d\n", book_sum());
	return 0;
}

static int ledger_open(struct inode *inode, struct file *file)
{
	return single_open(file, ledger_show, NULL);
}

static ssize_t ledger_write(struct file *file, const char __user *text, size_t size, loff_t *at)
{
	int amount, error;

	error = kstrtoint_from_user(text, size, 10, &amount);
	if (!error)
		error = book_add("written", amount);
	return error ? error : size;
}

static const struct proc_ops ledger_ops = {
	.proc_open = ledger_open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
	.proc_write = ledger_write,
};

static int __init ledger_init(void)
{
	return proc_create("rl_ledger", 0644, NULL, &ledger_ops) ? 0 : -ENOMEM;
}

static void __exit ledger_exit(void)
{
	remove_proc_entry("rl_ledger", NULL);
}

module_init(ledger_init);
module_exit(ledger_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Adds numbers, for tests of live patches of out-of-tree modules");
