// SPDX-License-Identifier: GPL-2.0
/* /proc/rl_keyed tells what another module's static key says. */
#include <linux/jump_label.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

DECLARE_STATIC_KEY_FALSE(rl_switch_key);

static int keyed_show(struct seq_file *m, void *v)
{
	if (static_branch_unlikely(&rl_switch_key))
		seq_puts(m, "the key is on\n");
	else
		seq_puts(m, "the key is off\n");
	return 0;
}

static int __init keyed_init(void)
{
	return proc_create_single("rl_keyed", 0444, NULL, keyed_show) ? 0 : -ENOMEM;
}

static void __exit keyed_exit(void)
{
	remove_proc_entry("rl_keyed", NULL);
}

module_init(keyed_init);
module_exit(keyed_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Follows a static key, for tests of live patches");
