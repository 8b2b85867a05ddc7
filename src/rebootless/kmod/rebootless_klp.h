/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How patches are described: mainline's <linux/livepatch.h>; and the same names where
 * the kernel has no livepatch, so that one source serves every kernel. There the
 * module's main file has the functions (livepatch.c), and the core does the work.
 */
#ifndef _REBOOTLESS_KLP_H
#define _REBOOTLESS_KLP_H

#include <linux/kconfig.h>
#include <linux/livepatch.h>

#if !IS_ENABLED(CONFIG_LIVEPATCH)

#include <linux/module.h>
#include <linux/types.h>

struct klp_object;

/* A function: its name and position in the object, and the new code. */
struct klp_func {
	const char *old_name;
	void *new_func;
	unsigned long old_sympos;
};

struct klp_callbacks {
	int (*pre_patch)(struct klp_object *object);
	void (*post_patch)(struct klp_object *object);
	void (*pre_unpatch)(struct klp_object *object);
	void (*post_unpatch)(struct klp_object *object);
};

/* vmlinux (no name) or a module; `mod` is set while the module is there. */
struct klp_object {
	const char *name;
	struct klp_func *funcs;
	struct klp_callbacks callbacks;
	struct module *mod;
};

struct klp_state {
	unsigned long id;
	unsigned int version;
	void *data;
};

struct klp_patch {
	struct module *mod;
	struct klp_object *objs;
	struct klp_state *states;
	bool replace;
};

#define klp_for_each_object_static(patch, obj)				\
	for (obj = (patch)->objs; obj->funcs || obj->name; obj++)

#define klp_for_each_func_static(obj, func)				\
	for (func = (obj)->funcs;					\
	     func->old_name || func->new_func || func->old_sympos; func++)

typedef int (*klp_shadow_ctor_t)(void *obj, void *shadow, void *data);
typedef void (*klp_shadow_dtor_t)(void *obj, void *shadow);

void *klp_shadow_get(void *obj, unsigned long id);
void *klp_shadow_alloc(void *obj, unsigned long id, size_t size, gfp_t gfp,
		       klp_shadow_ctor_t ctor, void *data);
void *klp_shadow_get_or_alloc(void *obj, unsigned long id, size_t size,
			      gfp_t gfp, klp_shadow_ctor_t ctor, void *data);
void klp_shadow_free(void *obj, unsigned long id, klp_shadow_dtor_t dtor);
void klp_shadow_free_all(unsigned long id, klp_shadow_dtor_t dtor);

struct klp_state *klp_get_state(struct klp_patch *patch, unsigned long id);

#endif /* !CONFIG_LIVEPATCH */

/*
 * The kernel's own knows only the patches of the kernel's own livepatch: ours asks
 * the one that this patch was given to.
 */
#define klp_get_prev_state rebootless_get_prev_state
struct klp_state *rebootless_get_prev_state(unsigned long id);

#endif /* _REBOOTLESS_KLP_H */
