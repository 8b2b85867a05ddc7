// SPDX-License-Identifier: GPL-2.0-only
/*
 * Shadow variables for kernels without livepatch, and system states of the core's
 * own patches. The names and what they promise are mainline's
 * (Documentation/livepatch/shadow-vars.rst, system-state.rst).
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/hashtable.h>
#include <linux/slab.h>
#include "core.h"

static struct klp_state *state_of(const struct klp_patch *patch, unsigned long id)
{
	struct klp_state *state;

	for (state = patch->states; state && state->id; state++)
		if (state->id == id)
			return state;
	return NULL;
}

/*
 * Whether a patch that takes the place of another can do so: it must know each
 * state of it, in a version that is not older.
 */
bool rb_states_follow(const struct klp_patch *patch, const struct klp_patch *old)
{
	struct klp_state *state, *known;

	for (state = old->states; state && state->id; state++) {
		known = state_of(patch, state->id);
		if (known ? known->version < state->version : patch->replace)
			return false;
	}
	return true;
}

/* From callbacks, which run with rb_mutex held: of the last patch before this one. */
static struct klp_state *prev_state(unsigned long id)
{
	struct klp_state *state, *last = NULL;
	struct rb_patch *patch;

	list_for_each_entry(patch, &rb_patches, list) {
		if (patch == rb_transition.patch)
			break;
		state = state_of(patch->klp, id);
		if (state)
			last = state;
	}
	return last;
}

#if IS_ENABLED(CONFIG_LIVEPATCH)

const struct rebootless_services rb_services = { .prev_state = prev_state };

void rb_shadow_exit(void)
{
}

#else

struct shadow {
	struct hlist_node node;
	struct rcu_head rcu;
	void *obj;
	unsigned long id;
	char data[] __aligned(sizeof(u64));
};

#define SHADOW_BITS 12
static DEFINE_HASHTABLE(shadows, SHADOW_BITS);
/* Writers; readers are under RCU. Taken with interrupts off: any context may ask. */
static DEFINE_SPINLOCK(shadow_lock);

static struct shadow *lookup(void *obj, unsigned long id)
{
	struct shadow *shadow;

	hash_for_each_possible_rcu(shadows, shadow, node, (unsigned long)obj,
				   lockdep_is_held(&shadow_lock))
		if (shadow->obj == obj && shadow->id == id)
			return shadow;
	return NULL;
}

static void *shadow_get(void *obj, unsigned long id)
{
	struct shadow *shadow;

	rcu_read_lock();
	shadow = lookup(obj, id);
	rcu_read_unlock();
	return shadow ? shadow->data : NULL;
}

/* The data, new or as it was; `found` tells which. NULL: no memory, or no constructor. */
static void *make(void *obj, unsigned long id, size_t size, gfp_t gfp,
		  klp_shadow_ctor_t ctor, void *data, bool *found)
{
	struct shadow *shadow, *fresh;
	unsigned long flags;
	int error = 0;

	fresh = rb_fails() ? NULL : kzalloc(struct_size(fresh, data, size), gfp);
	if (!fresh)
		return NULL;
	fresh->obj = obj;
	fresh->id = id;
	spin_lock_irqsave(&shadow_lock, flags);
	shadow = lookup(obj, id);
	*found = shadow;
	if (!shadow) {
		/* Under the lock, as in mainline: nobody sees it half made. */
		error = ctor ? ctor(obj, fresh->data, data) : 0;
		if (!error)
			hash_add_rcu(shadows, &fresh->node, (unsigned long)obj);
	}
	spin_unlock_irqrestore(&shadow_lock, flags);
	if (shadow || error)
		kfree(fresh);
	if (error)
		pr_err("the constructor of shadow variable <%p, %lu> failed: %d\n",
		       obj, id, error);
	if (shadow)
		return shadow->data;
	return error ? NULL : fresh->data;
}

static void *shadow_alloc(void *obj, unsigned long id, size_t size, gfp_t gfp,
			  klp_shadow_ctor_t ctor, void *data)
{
	bool found = shadow_get(obj, id);
	void *made = found ? NULL : make(obj, id, size, gfp, ctor, data, &found);

	WARN(found, "rebootless: there is a shadow variable <%p, %lu> already\n", obj, id);
	return found ? NULL : made;
}

static void *shadow_get_or_alloc(void *obj, unsigned long id, size_t size, gfp_t gfp,
				 klp_shadow_ctor_t ctor, void *data)
{
	void *known = shadow_get(obj, id);
	bool found;

	return known ?: make(obj, id, size, gfp, ctor, data, &found);
}

static void drop(struct shadow *shadow, klp_shadow_dtor_t dtor)
{
	hash_del_rcu(&shadow->node);
	if (dtor)
		dtor(shadow->obj, shadow->data);
	kfree_rcu(shadow, rcu);
}

static void shadow_free(void *obj, unsigned long id, klp_shadow_dtor_t dtor)
{
	struct shadow *shadow;
	unsigned long flags;

	spin_lock_irqsave(&shadow_lock, flags);
	shadow = lookup(obj, id);
	if (shadow)
		drop(shadow, dtor);
	spin_unlock_irqrestore(&shadow_lock, flags);
}

static void shadow_free_all(unsigned long id, klp_shadow_dtor_t dtor)
{
	struct hlist_node *next;
	struct shadow *shadow;
	unsigned long flags;
	int bucket;

	spin_lock_irqsave(&shadow_lock, flags);
	hash_for_each_safe(shadows, bucket, next, shadow, node)
		if (shadow->id == id)
			drop(shadow, dtor);
	spin_unlock_irqrestore(&shadow_lock, flags);
}

const struct rebootless_services rb_services = {
	.prev_state = prev_state,
	.shadow_get = shadow_get,
	.shadow_alloc = shadow_alloc,
	.shadow_get_or_alloc = shadow_get_or_alloc,
	.shadow_free = shadow_free,
	.shadow_free_all = shadow_free_all,
};

/* At the core's end: no patch is left that could ask for one. */
void rb_shadow_exit(void)
{
	struct hlist_node *next;
	struct shadow *shadow;
	int bucket;

	hash_for_each_safe(shadows, bucket, next, shadow, node) {
		hash_del(&shadow->node);
		kfree(shadow);
	}
	/* kfree_rcu() needs no module code, so nothing is waited for here */
}

#endif /* CONFIG_LIVEPATCH */
