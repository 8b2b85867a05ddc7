// SPDX-License-Identifier: GPL-2.0-only
/*
 * The main file of every patch module: registers its functions with the
 * kernel's livepatch core. What differs from patch to patch is in the headers
 * that are written for each: objects, functions, callbacks, states and the
 * replace flag.
 *
 *	OBJECT(NAME, FUNCTIONS)			an object without callbacks
 *	OBJECT_CALLS(NAME, FUNCTIONS, UNITS)	one whose UNITS have callbacks
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

#include "rebootless_features.h"

/* The units of each object that have callbacks, in the order of objects[]. */
struct chain {
	const struct klp_callbacks *units;
	unsigned int count;
};

#define OBJECT(object, functions) { },
#define OBJECT_CALLS(object, functions, callbacks) \
	{ .units = callbacks, .count = ARRAY_SIZE(callbacks) },
static const struct chain chains[] = {
#include "rebootless_objects.h"
};
#undef OBJECT
#undef OBJECT_CALLS

static struct klp_object objects[];

static const struct chain *chain_of(struct klp_object *object)
{
	return &chains[object - objects];
}

/*
 * When a unit refuses, those before it are told with post_unpatch, as the
 * kernel does it with objects: it is called just where pre_patch succeeded.
 */
static int __maybe_unused pre_patch(struct klp_object *object)
{
	const struct chain *chain = chain_of(object);
	unsigned int n;
	int error;

	for (n = 0; n < chain->count; n++) {
		if (!chain->units[n].pre_patch)
			continue;
		error = chain->units[n].pre_patch(object);
		if (error)
			break;
	}
	if (n == chain->count)
		return 0;
	while (n--) {
		if (chain->units[n].post_unpatch)
			chain->units[n].post_unpatch(object);
	}
	return error;
}

static void __maybe_unused post_patch(struct klp_object *object)
{
	const struct chain *chain = chain_of(object);
	unsigned int n;

	for (n = 0; n < chain->count; n++) {
		if (chain->units[n].post_patch)
			chain->units[n].post_patch(object);
	}
}

static void __maybe_unused pre_unpatch(struct klp_object *object)
{
	const struct chain *chain = chain_of(object);
	unsigned int n = chain->count;

	while (n--) {
		if (chain->units[n].pre_unpatch)
			chain->units[n].pre_unpatch(object);
	}
}

static void __maybe_unused post_unpatch(struct klp_object *object)
{
	const struct chain *chain = chain_of(object);
	unsigned int n = chain->count;

	while (n--) {
		if (chain->units[n].post_unpatch)
			chain->units[n].post_unpatch(object);
	}
}

#define OBJECT(object, functions) { .name = object, .funcs = functions },
#define OBJECT_CALLS(object, functions, units) {	\
		.name = object,				\
		.funcs = functions,			\
		.callbacks = {				\
			.pre_patch = pre_patch,		\
			.post_patch = post_patch,	\
			.pre_unpatch = pre_unpatch,	\
			.post_unpatch = post_unpatch,	\
		},					\
	},
static struct klp_object objects[] = {
#include "rebootless_objects.h"
	{ }
};

/* Global, so that callbacks can ask klp_get_state() for a state of theirs. */
struct klp_patch rebootless_patch = {
	.mod = THIS_MODULE,
	.objs = objects,
#ifdef REBOOTLESS_STATES
	.states = states,
#endif
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
	return klp_enable_patch(&rebootless_patch);
}

/* The livepatch core refuses to unload a patch that is still in use. */
static void __exit patch_exit(void)
{
}

module_init(patch_init);
module_exit(patch_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
