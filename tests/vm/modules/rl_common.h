/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the test patches have in common: one object, one function, no callbacks.
 * OBJECT is NULL for the kernel proper.
 */
#ifndef RL_COMMON_H
#define RL_COMMON_H

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#define RL_LIVEPATCH(object, function, replacement, replaces)		\
	static struct klp_func rl_funcs[] = {				\
		{ .old_name = function, .new_func = replacement, },	\
		{ }							\
	};								\
	static struct klp_object rl_objects[] = {			\
		{ .name = object, .funcs = rl_funcs, },			\
		{ }							\
	};								\
	static struct klp_patch rl_patch = {				\
		.mod = THIS_MODULE,					\
		.objs = rl_objects,					\
		.replace = replaces,					\
	};								\
	static int __init rl_init(void)					\
	{								\
		return klp_enable_patch(&rl_patch);			\
	}								\
	static void __exit rl_exit(void)				\
	{								\
	}								\
	module_init(rl_init);						\
	module_exit(rl_exit);						\
	MODULE_DESCRIPTION("rebootless test patch");			\
	MODULE_LICENSE("GPL");						\
	MODULE_INFO(livepatch, "Y")

#endif
