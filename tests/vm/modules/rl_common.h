/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the test patches have in common: one object, no callbacks, and any engine: as patches that
 * rebootless makes, they go to the kernel's livepatch unless engine=NAME says otherwise.
 * OBJECT is NULL for the kernel proper.
 */
#ifndef RL_COMMON_H
#define RL_COMMON_H

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/string.h>
#include <rebootless_core.h>

static char *rl_engine = "";
module_param_named(engine, rl_engine, charp, 0444);

static inline int rl_enable(struct klp_patch *patch)
{
	const struct rebootless_patch ours = {
		.abi = REBOOTLESS_CORE_ABI,
		.engine = rl_engine,
		.patch = patch,
	};
	int (*enable)(const struct rebootless_patch *patch);
	int error;

#if IS_ENABLED(CONFIG_LIVEPATCH)
	if (!*rl_engine || !strcmp(rl_engine, "livepatch"))
		return klp_enable_patch(patch);
#endif
	enable = symbol_get(rebootless_enable_patch);
	if (!enable)
		return -ENOPKG;
	error = enable(&ours);
	symbol_put(rebootless_enable_patch);
	return error;
}

#if IS_ENABLED(CONFIG_LIVEPATCH)
MODULE_INFO(livepatch, "Y");
#endif

/* FUNCTIONS: initialisers of struct klp_func. */
#define RL_PATCH(object, replaces, functions...)			\
	static struct klp_func rl_funcs[] = { functions, { } };		\
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

#define RL_LIVEPATCH(object, function, replacement, replaces)		\
	RL_PATCH(object, replaces, { .old_name = function, .new_func = replacement })

#endif
