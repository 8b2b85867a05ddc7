/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a source patch can tell rebootless beyond the change itself. A patch
 * includes this file in a unit that it changes:
 *
 *	#include <rebootless.h>
 *
 * It is there while rebootless compiles the patched units, and need not be in
 * the kernel's tree; nor need the kernel have livepatch. What the macros leave in sections .rebootless.* is read
 * from the object file and does not get into the patch module.
 */
#ifndef _REBOOTLESS_H
#define _REBOOTLESS_H

#include <linux/build_bug.h>
#include <linux/compiler.h>
#include <rebootless_klp.h>
#include <rebootless_patch.h>

/*
 * Callbacks of the object that the unit belongs to, vmlinux or a module. Each
 * unit may have one of each kind; those of several units run in the order of
 * the units, and in the reverse order when the patch is taken off.
 *
 *	int fn(struct klp_object *)	for REBOOTLESS_PRE_PATCH
 *	void fn(struct klp_object *)	for the others
 */
typedef int (*rebootless_check_t)(struct klp_object *object);
typedef void (*rebootless_call_t)(struct klp_object *object);

#define REBOOTLESS_PRE_PATCH(fn)					\
	static const rebootless_check_t __rebootless_pre_patch		\
	__used __section(".rebootless.pre_patch") = fn

#define REBOOTLESS_POST_PATCH(fn)					\
	static const rebootless_call_t __rebootless_post_patch		\
	__used __section(".rebootless.post_patch") = fn

#define REBOOTLESS_PRE_UNPATCH(fn)					\
	static const rebootless_call_t __rebootless_pre_unpatch		\
	__used __section(".rebootless.pre_unpatch") = fn

#define REBOOTLESS_POST_UNPATCH(fn)					\
	static const rebootless_call_t __rebootless_post_unpatch	\
	__used __section(".rebootless.post_unpatch") = fn

/* The change of a function is left out of the live patch. */
#define REBOOTLESS_IGNORE_FUNCTION(fn)	__REBOOTLESS_NAME(ignore_function, fn, #fn)

/* A function is patched although its code is the same as before. */
#define REBOOTLESS_FORCE_FUNCTION(fn)	__REBOOTLESS_NAME(force_function, fn, #fn)

/*
 * A variable has another initial value in the patched source. The running
 * kernel keeps the variable as it is: the author vouches that a callback sets
 * it, or that the old value does no harm.
 */
#define REBOOTLESS_ALLOW_DATA(var)	__REBOOTLESS_NAME(allow_data, var, #var)

/* What a patch changes in a section of data is neither judged nor included. */
#define REBOOTLESS_IGNORE_SECTION(name)					\
	__REBOOTLESS_NAME(ignore_section, __COUNTER__, name)

/* A state of the system that the patch changes, see struct klp_state. */
#define REBOOTLESS_STATE(id, version)	__REBOOTLESS_STATE(__COUNTER__, id, version)

/* The struct klp_patch of this live patch, for klp_get_state(). */
extern struct klp_patch rebootless_patch;

/*
 * A shadow variable: data of a type that is kept beside an object of the
 * kernel, found by the object's address and an id that no other patch uses.
 */
#define REBOOTLESS_SHADOW(type, name, id)				\
static inline type *name##_get(void *object)				\
{									\
	return klp_shadow_get(object, id);				\
}									\
									\
static inline type *name##_alloc(void *object, gfp_t gfp,		\
				 klp_shadow_ctor_t ctor, void *data)	\
{									\
	return klp_shadow_alloc(object, id, sizeof(type), gfp, ctor,	\
				data);					\
}									\
									\
static inline type *name##_get_or_alloc(void *object, gfp_t gfp,	\
					klp_shadow_ctor_t ctor,		\
					void *data)			\
{									\
	return klp_shadow_get_or_alloc(object, id, sizeof(type), gfp,	\
				       ctor, data);			\
}									\
									\
static inline void name##_free(void *object, klp_shadow_dtor_t dtor)	\
{									\
	klp_shadow_free(object, id, dtor);				\
}									\
									\
static inline void name##_free_all(klp_shadow_dtor_t dtor)		\
{									\
	klp_shadow_free_all(id, dtor);					\
}

/* How the macros above leave their word. */
#define __REBOOTLESS_NAME(kind, unique, text)				\
	static const char __PASTE(__rebootless_##kind##_, unique)[]	\
	__used __section(".rebootless." #kind) = text

#define __REBOOTLESS_STATE(unique, id, version)				\
	static const unsigned long __PASTE(__rebootless_state_, unique)[] \
	__used __section(".rebootless.state") = {			\
		(id) + BUILD_BUG_ON_ZERO((id) == 0), (version),		\
	}

#endif /* _REBOOTLESS_H */
