/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Test patches of several functions and objects, whose callbacks say so in the log. A
 * file defines the functions it wants and ends with RC_PATCH().
 */
#ifndef RC_COMMON_H
#define RC_COMMON_H

#include <linux/netdevice.h>
#include <linux/seq_file.h>

#include "rl_common.h"

static char *refuse = "";
module_param(refuse, charp, 0444);
MODULE_PARM_DESC(refuse, "the object for which pre_patch refuses");

static const char *rc_object(struct klp_object *object)
{
	WARN_ON(!object->name != !object->mod);
	return object->name ?: "vmlinux";
}

static void rc_say(struct klp_object *object, const char *callback)
{
	pr_info("%s: %s %s\n", KBUILD_MODNAME, callback, rc_object(object));
}

static int rc_pre_patch(struct klp_object *object)
{
	rc_say(object, "pre_patch");
	return strcmp(refuse, rc_object(object)) ? 0 : -EPERM;
}

static void rc_post_patch(struct klp_object *object)
{
	rc_say(object, "post_patch");
}

static void rc_pre_unpatch(struct klp_object *object)
{
	rc_say(object, "pre_unpatch");
}

static void rc_post_unpatch(struct klp_object *object)
{
	rc_say(object, "post_unpatch");
}

static int __maybe_unused rc_version(struct seq_file *m, void *v)
{
	seq_puts(m, KBUILD_MODNAME "\n");
	return 0;
}

static int __maybe_unused rc_loadavg(struct seq_file *m, void *v)
{
	seq_puts(m, KBUILD_MODNAME "\n");
	return 0;
}

#define RC_CALLBACKS				\
	.callbacks = {				\
		.pre_patch = rc_pre_patch,	\
		.post_patch = rc_post_patch,	\
		.pre_unpatch = rc_pre_unpatch,	\
		.post_unpatch = rc_post_unpatch, \
	}

/* What every device of the module dummy has sent. */
#define RC_DUMMY(packets)						\
	static void rc_dummy(struct net_device *dev,			\
			     struct rtnl_link_stats64 *stats)		\
	{								\
		stats->tx_packets = packets;				\
	}								\
	static struct klp_func rc_dummy_funcs[] = {			\
		{ .old_name = "dummy_get_stats64", .new_func = rc_dummy, }, \
		{ }							\
	}

#define RC_DUMMY_OBJECT \
	{ .name = "dummy", .funcs = rc_dummy_funcs, RC_CALLBACKS }

/* rc_objects is there; VERSION is of the system state 1, or 0. */
#define RC_PATCH(version_, replaces)					\
	static struct klp_state rc_states[] = {				\
		{ .id = (version_) ? 1 : 0, .version = version_, },	\
		{ }							\
	};								\
	static struct klp_patch rc_patch = {				\
		.mod = THIS_MODULE,					\
		.objs = rc_objects,					\
		.states = rc_states,					\
		.replace = replaces,					\
	};								\
	static int __init rc_init(void)					\
	{								\
		return rl_enable(&rc_patch);				\
	}								\
	static void __exit rc_exit(void)				\
	{								\
	}								\
	module_init(rc_init);						\
	module_exit(rc_exit);						\
	MODULE_DESCRIPTION("rebootless test patch");			\
	MODULE_LICENSE("GPL")

#endif
