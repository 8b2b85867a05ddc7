// SPDX-License-Identifier: GPL-2.0-only
/*
 * The main file of every patch module: hands its functions to the kernel's
 * livepatch core or to rebootless_core, by the parameter `engine`. What differs
 * from patch to patch is in the headers that are written for each: objects,
 * functions, callbacks, states and the replace flag.
 */
#include <linux/jump_label.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/string.h>
#include <rebootless_core.h>
#undef klp_get_prev_state

#include "rebootless_features.h"

/* The units of an object that have callbacks. */
struct chain {
	const struct klp_callbacks *units;
	unsigned int count;
};

/* Of each object, in their order. */
static const struct chain chains[];
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

/* Functions, how each begins in the shipped kernel, objects, chains, REBOOTLESS_REPLACE. */
#include "rebootless_objects.h"

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
struct mirror {
	struct static_key *key;
	struct static_key **real;
};

/* Those keys, and mirrors[], which an empty one ends. */
#include "rebootless_keys.h"

static void follow_keys(void)
{
	const struct mirror *mirror;

	for (mirror = mirrors; mirror->key; mirror++) {
		if (static_key_enabled(*mirror->real))
			static_key_enable(mirror->key);
		else
			static_key_disable(mirror->key);
	}
}

/*
 * What the loader leaves to the core, see relocs.py, which puts the records of this
 * patch before the one that ends them.
 */
const struct rebootless_reloc rebootless_relocs[1]
__used __section(".rebootless.relocs") = { };

static const struct rebootless_services *services;

/* For units, in place of klp_get_prev_state() (rebootless_klp.h). */
struct klp_state *rebootless_get_prev_state(unsigned long id)
{
	if (services)
		return services->prev_state(id);
#if IS_ENABLED(CONFIG_LIVEPATCH)
	return klp_get_prev_state(id);
#else
	return NULL;
#endif
}

#if !IS_ENABLED(CONFIG_LIVEPATCH)
/* For units: what the kernel does not have, the core has. */
void *klp_shadow_get(void *obj, unsigned long id)
{
	return services->shadow_get(obj, id);
}

void *klp_shadow_alloc(void *obj, unsigned long id, size_t size, gfp_t gfp,
		       klp_shadow_ctor_t ctor, void *data)
{
	return services->shadow_alloc(obj, id, size, gfp, ctor, data);
}

void *klp_shadow_get_or_alloc(void *obj, unsigned long id, size_t size,
			      gfp_t gfp, klp_shadow_ctor_t ctor, void *data)
{
	return services->shadow_get_or_alloc(obj, id, size, gfp, ctor, data);
}

void klp_shadow_free(void *obj, unsigned long id, klp_shadow_dtor_t dtor)
{
	services->shadow_free(obj, id, dtor);
}

void klp_shadow_free_all(unsigned long id, klp_shadow_dtor_t dtor)
{
	services->shadow_free_all(id, dtor);
}

struct klp_state *klp_get_state(struct klp_patch *patch, unsigned long id)
{
	struct klp_state *state;

	for (state = patch->states; state && state->id; state++)
		if (state->id == id)
			return state;
	return NULL;
}
#endif

static char *engine = IS_ENABLED(CONFIG_LIVEPATCH) ? "livepatch" : "atomic";
module_param(engine, charp, 0444);
MODULE_PARM_DESC(engine, "livepatch (of the kernel), atomic or per-task");

static int __init enable_by_core(void)
{
	const struct rebootless_patch description = {
		.abi = REBOOTLESS_CORE_ABI,
		.engine = engine,
		.patch = &rebootless_patch,
		.relocs = rebootless_relocs,
		.entries = entries,
		.services = &services,
		.relocated = IS_ENABLED(CONFIG_LIVEPATCH) ? NULL : follow_keys,
	};
	typeof(rebootless_enable_patch) *enable = symbol_get(rebootless_enable_patch);
	int error;

	if (!enable) {
		pr_err("rebootless: '%s': the engine '%s' needs the module rebootless_core\n",
		       THIS_MODULE->name, engine);
		return -ENOPKG;
	}
	error = enable(&description);
	symbol_put(rebootless_enable_patch);
	return error;
}

#if IS_ENABLED(CONFIG_LIVEPATCH)
/* Where the core is loaded, the transition does not take the kernel's full seconds. */
static int __init enable_by_kernel(void)
{
	void (*drive)(void);
	int error = klp_enable_patch(&rebootless_patch);

	if (error)
		return error;
	drive = symbol_get(rebootless_drive_livepatch);
	if (drive) {
		drive();
		symbol_put(rebootless_drive_livepatch);
	}
	return 0;
}
#endif

static int __init patch_init(void)
{
#if IS_ENABLED(CONFIG_LIVEPATCH)
	/* The loader has applied the relocations of the kernel proper. */
	follow_keys();
	if (!*engine || !strcmp(engine, "livepatch"))
		return enable_by_kernel();
#endif
	return enable_by_core();
}

/* Who applies the patch refuses to unload it while it is still in use. */
static void __exit patch_exit(void)
{
}

module_init(patch_init);
module_exit(patch_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(rebootless, "Y");
#if IS_ENABLED(CONFIG_LIVEPATCH)
MODULE_INFO(livepatch, "Y");
#endif
