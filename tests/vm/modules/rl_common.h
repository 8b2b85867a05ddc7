/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the test patches have in common: one object, no callbacks, and by default one
 * function. OBJECT is NULL for the kernel proper. The module's parameter `engine` chooses
 * who puts the patch in force, as in the patches that rebootless builds.
 */
#ifndef RL_COMMON_H
#define RL_COMMON_H

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/string.h>
#include <rebootless_core.h>

static char *engine = "";
module_param(engine, charp, 0444);

/* A loader without livepatch refuses it. */
#if IS_ENABLED(CONFIG_LIVEPATCH)
MODULE_INFO(livepatch, "Y");
#endif

static int __init rl_enable(struct klp_patch *livepatch)
{
	const struct rebootless_patch patch = {
		.abi = REBOOTLESS_CORE_ABI,
		.engine = engine,
		.patch = livepatch,
	};
	int (*enable)(const struct rebootless_patch *patch);
	int error;

#if IS_ENABLED(CONFIG_LIVEPATCH)
	if (!*engine || !strcmp(engine, "livepatch"))
		return klp_enable_patch(livepatch);
#endif
	enable = symbol_get(rebootless_enable_patch);
	if (!enable)
		return -ENOPKG;
	error = enable(&patch);
	symbol_put(rebootless_enable_patch);
	return error;
}

#define RL_LIVEPATCH(object, function, replacement, replaces)		\
	static struct klp_func rl_funcs[] = {				\
		{ .old_name = function, .new_func = replacement, },	\
		{ }							\
	};								\
	RL_FUNCTIONS(object, replaces)

/* The same with rl_funcs as the file has it. */
#define RL_FUNCTIONS(object, replaces)					\
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
		return rl_enable(&rl_patch);				\
	}								\
	static void __exit rl_exit(void)				\
	{								\
	}								\
	module_init(rl_init);						\
	module_exit(rl_exit);						\
	MODULE_DESCRIPTION("rebootless test patch");			\
	MODULE_LICENSE("GPL")

#endif
