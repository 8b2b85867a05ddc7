// SPDX-License-Identifier: GPL-2.0
/* One of several functions of a name: the file in /proc that it serves is empty then. */
#include "rl_common.h"
#include <linux/seq_file.h>

static ulong position;
module_param(position, ulong, 0444);

static void *rc_start(struct seq_file *m, loff_t *at)
{
	return NULL;
}

static struct klp_func rl_funcs[] = {
	{ .old_name = "c_start", .new_func = rc_start, },
	{ }
};

static struct klp_object rc_objects[] = {
	{ .funcs = rl_funcs, },
	{ }
};

static struct klp_patch rc_patch = { .mod = THIS_MODULE, .objs = rc_objects, };

static int __init rc_init(void)
{
	rl_funcs[0].old_sympos = position;
	return rl_enable(&rc_patch);
}

static void __exit rc_exit(void)
{
}

module_init(rc_init);
module_exit(rc_exit);
MODULE_DESCRIPTION("rebootless test patch");
MODULE_LICENSE("GPL");
