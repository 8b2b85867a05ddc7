// SPDX-License-Identifier: GPL-2.0-only
/*
 * The main file of every patch module: registers its functions with the
 * kernel's livepatch core. What differs from patch to patch is in the header
 * that is written for each: objects, functions and the replace flag.
 *
 *	REBOOTLESS_FUNCTIONS(N)	the functions of object N
 *	REBOOTLESS_OBJECTS	all objects
 */
#include <linux/jump_label.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

#define FUNCTION(symbol, old, position) extern char symbol[];
#define OBJECT_BEGIN(variable)
#define OBJECT_END
#include "rebootless_functions.h"
#undef FUNCTION
#undef OBJECT_BEGIN
#undef OBJECT_END

#define FUNCTION(symbol, old, position) {	\
		.old_name = old,		\
		.new_func = symbol,		\
		.old_sympos = position,		\
	},
#define OBJECT_BEGIN(variable) static struct klp_func variable[] = {
#define OBJECT_END { } };
#include "rebootless_functions.h"
#undef FUNCTION
#undef OBJECT_BEGIN
#undef OBJECT_END

#define OBJECT(object, functions) { .name = object, .funcs = functions },
static struct klp_object objects[] = {
#include "rebootless_objects.h"
	{ }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objects,
	.replace = REBOOTLESS_REPLACE,
};

/*
 * A static key of the kernel that is read-only after boot must not get entries
 * of a module. The patched code has a key of ours in its place, which takes on
 * the kernel's state before any of that code runs; it never changes again.
 */
#define KEY(mirror, real, initial)		\
	struct static_key mirror = initial;	\
	extern struct static_key *real;
#include "rebootless_keys.h"
#undef KEY

static void __init follow_keys(void)
{
#define KEY(mirror, real, initial)		\
	if (static_key_enabled(real))		\
		static_key_enable(&mirror);	\
	else					\
		static_key_disable(&mirror);
#include "rebootless_keys.h"
#undef KEY
}

static int __init patch_init(void)
{
	follow_keys();
	return klp_enable_patch(&patch);
}

/* The livepatch core refuses to unload a patch that is still in use. */
static void __exit patch_exit(void)
{
}

module_init(patch_init);
module_exit(patch_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
