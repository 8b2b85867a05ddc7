/* SPDX-License-Identifier: GPL-2.0-only */
/* A patch of functions of bench_target, for every engine. */
#include <linux/module.h>
#include <rebootless_core.h>

#define BENCH_PATCH(...)						\
	static struct klp_func functions[] = { __VA_ARGS__, { } };	\
	static struct klp_object objects[] = {				\
		{ .name = "bench_target", .funcs = functions, }, { }	\
	};								\
	static struct klp_patch patch = {				\
		.mod = THIS_MODULE,					\
		.objs = objects,					\
	};								\
	static char *engine = "livepatch";				\
	module_param(engine, charp, 0444);				\
	static bool driven;						\
	module_param(driven, bool, 0444);				\
									\
	static int __init bench_init(void)				\
	{								\
		static const struct rebootless_reloc none[1];		\
		struct rebootless_patch description = {			\
			.abi = REBOOTLESS_CORE_ABI,			\
			.engine = engine,				\
			.patch = &patch,				\
			.relocs = none,					\
		};							\
		typeof(&rebootless_enable_patch) enable;		\
		typeof(&rebootless_drive_livepatch) drive;		\
		int error;						\
									\
		if (!strcmp(engine, "livepatch")) {			\
			error = klp_enable_patch(&patch);		\
			drive = symbol_get(rebootless_drive_livepatch);	\
			if (!error && driven)				\
				drive();				\
			symbol_put(rebootless_drive_livepatch);		\
			return error;					\
		}							\
		enable = symbol_get(rebootless_enable_patch);		\
		if (!enable)						\
			return -ENOPKG;					\
		error = enable(&description);				\
		symbol_put(rebootless_enable_patch);			\
		return error;						\
	}								\
									\
	static void __exit bench_exit(void)				\
	{								\
	}								\
									\
	module_init(bench_init);					\
	module_exit(bench_exit);					\
	MODULE_DESCRIPTION("a patch that bench/engines.py measures");	\
	MODULE_LICENSE("GPL");						\
	MODULE_INFO(livepatch, "Y")
