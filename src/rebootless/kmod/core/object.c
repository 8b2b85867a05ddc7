// SPDX-License-Identifier: GPL-2.0-only
/* What a patch changes in the kernel proper or in one module. */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/err.h>
#include <linux/kallsyms.h>
#include <linux/string.h>

#include "core.h"

const char *rb_object_name(const struct rb_object *object)
{
	return object->klp->name ?: "vmlinux";
}

static const char *patch_name(const struct rb_object *object)
{
	return object->patch->module->name;
}

static unsigned int count_objects(const struct klp_patch *patch)
{
	unsigned int count = 0;

	while (patch->objs[count].name || patch->objs[count].funcs)
		count++;
	return count;
}

static unsigned int count_funcs(const struct klp_object *object)
{
	unsigned int count = 0;

	while (object->funcs[count].old_name || object->funcs[count].new_func)
		count++;
	return count;
}

static int init_funcs(struct rb_object *object, const struct rebootless_entry *entries)
{
	struct rb_func *func;
	unsigned int n;

	for (n = 0; n < object->count; n++) {
		func = &object->funcs[n];
		func->object = object;
		func->klp = &object->klp->funcs[n];
		func->shipped = entries ? &entries[n] : NULL;
		INIT_LIST_HEAD(&func->stack);
		if (!func->klp->old_name || !func->klp->new_func ||
		    strlen(func->klp->old_name) >= KSYM_NAME_LEN) {
			pr_err("'%s': function %u of %s has no name or no code\n",
			       patch_name(object), n, rb_object_name(object));
			return -EINVAL;
		}
	}
	return 0;
}

/* `entries` are the patch's from the object's first function on, or NULL. */
static int init_object(struct rb_object *object, const struct rebootless_entry *entries)
{
	if (!object->klp->funcs ||
	    (object->klp->name && strlen(object->klp->name) >= MODULE_NAME_LEN)) {
		pr_err("'%s': its object %s is not a good one\n", patch_name(object),
		       rb_object_name(object));
		return -EINVAL;
	}
	object->count = count_funcs(object->klp);
	object->funcs = rb_alloc(object->count * sizeof(*object->funcs));
	if (!object->funcs)
		return -ENOMEM;
	return init_funcs(object, entries);
}

/* An error leaves what rb_objects_free() takes. */
int rb_objects_init(struct rb_patch *patch)
{
	const struct rebootless_entry *entries = patch->entries;
	unsigned int n, count = count_objects(patch->klp);
	int error;

	patch->objects = rb_alloc(count * sizeof(*patch->objects));
	if (!patch->objects)
		return -ENOMEM;
	patch->count = count;
	for (n = 0; n < count; n++) {
		patch->objects[n].patch = patch;
		patch->objects[n].klp = &patch->klp->objs[n];
		error = init_object(&patch->objects[n], entries);
		if (error)
			return error;
		if (entries)
			entries += patch->objects[n].count;
	}
	return 0;
}

void rb_objects_free(struct rb_patch *patch)
{
	unsigned int n;

	for (n = 0; n < patch->count; n++)
		rb_free(patch->objects[n].funcs);
	rb_free(patch->objects);
}

static int load_func(struct rb_func *func)
{
	struct rb_object *object = func->object;
	unsigned long address, size;
	struct rb_site *site;
	int error;

	error = rb_find_symbol(rb_object_name(object), func->klp->old_name,
			       func->klp->old_sympos, &address);
	if (error) {
		pr_err("'%s': %s has no function '%s' at position %lu%s\n", patch_name(object),
		       rb_object_name(object), func->klp->old_name, func->klp->old_sympos,
		       error == -EINVAL && !func->klp->old_sympos ? ": it has several" : "");
		return error;
	}
	size = rb_symbol_size(address);
	site = !size ? ERR_PTR(-ENOENT) :
	       rb_site_get(address, size, object->patch->engine->conditional, func->shipped);
	if (IS_ERR(site)) {
		pr_err("'%s': the function '%s' of %s cannot be redirected (%ld)\n",
		       patch_name(object), func->klp->old_name, rb_object_name(object),
		       PTR_ERR(site));
		return PTR_ERR(site);
	}
	func->site = site;
	list_add(&func->stack, &site->funcs);
	return 0;
}

static void unload_func(struct rb_func *func)
{
	struct rb_site *site = func->site;

	if (!site)
		return;
	func->site = NULL;
	list_del_init(&func->stack);
	if (rb_site_settle(site))
		pr_err("the redirection of %ps could not be taken off\n", (void *)site->address);
}

/*
 * Nothing of the object is in force any more, or nobody runs its code. Callbacks that
 * come after it still see the module.
 */
void rb_object_unload(struct rb_object *object)
{
	unsigned int n;

	for (n = 0; n < object->count; n++)
		unload_func(&object->funcs[n]);
	object->loaded = false;
}

static void set_module(struct rb_object *object, struct module *module)
{
	object->module = module;
	object->klp->mod = module;
}

/* Nothing is left of what rb_object_load() did. */
void rb_object_forget(struct rb_object *object)
{
	rb_object_unload(object);
	rb_sites_sweep();
	set_module(object, NULL);
}

/*
 * The object is there: its addresses are found, and its functions put on the stacks of
 * their sites. They are in force as far as the patch is, which the caller settles.
 */
int rb_object_load(struct rb_object *object, struct module *module)
{
	unsigned int n;
	int error;

	set_module(object, module);
	error = module ? rb_relocate(object->patch, module->name) : 0;
	for (n = 0; !error && n < object->count; n++)
		error = load_func(&object->funcs[n]);
	object->loaded = true;
	if (error)
		rb_object_forget(object);
	return error;
}

/* A module cannot go while rb_mutex is held: it waits for it in its notifier. */
static struct module *find_module_of(struct rb_object *object)
{
	struct module *module;

	preempt_disable();
	module = rb_module(object->klp->name);
	if (module && !rb_module_is_there(module))
		module = NULL;
	preempt_enable();
	return module;
}

/*
 * The name of an object that is in its init though we were not told of it: either we are
 * about to be, or its init began before we came, and anybody may be in its code. NULL: none.
 */
const char *rb_objects_unclear(const struct rb_patch *patch)
{
	const char *name, *unclear = NULL;
	struct module *module;
	unsigned int n;

	preempt_disable();
	for (n = 0; !unclear && n < patch->count; n++) {
		name = patch->objects[n].klp->name;
		module = name ? rb_module(name) : NULL;
		if (module && module->state == MODULE_STATE_COMING && !rb_module_is_there(module))
			unclear = name;
	}
	preempt_enable();
	return unclear;
}

/* Loads all that are there. Error: none is loaded. */
int rb_objects_load(struct rb_patch *patch)
{
	struct module *module = NULL;
	struct rb_object *object;
	unsigned int n;
	int error;

	for (n = 0; n < patch->count; n++) {
		object = &patch->objects[n];
		if (object->klp->name) {
			module = find_module_of(object);
			if (!module)
				continue;
		}
		error = rb_object_load(object, module);
		module = NULL;
		if (error)
			goto unload;
	}
	return 0;
unload:
	while (n--)
		rb_object_forget(&patch->objects[n]);
	return error;
}

int rb_pre_patch(struct rb_object *object)
{
	int error = 0;

	if (object->klp->callbacks.pre_patch)
		error = object->klp->callbacks.pre_patch(object->klp);
	if (error)
		pr_warn("'%s': its pre_patch callback for %s refuses (%d)\n", patch_name(object),
			rb_object_name(object), error);
	object->called = !error;
	return error;
}

void rb_post_patch(struct rb_object *object)
{
	if (object->klp->callbacks.post_patch)
		object->klp->callbacks.post_patch(object->klp);
}

void rb_pre_unpatch(struct rb_object *object)
{
	if (object->called && object->klp->callbacks.pre_unpatch)
		object->klp->callbacks.pre_unpatch(object->klp);
}

/* Only for whom pre_patch has succeeded, and once. */
void rb_post_unpatch(struct rb_object *object)
{
	if (object->called && object->klp->callbacks.post_unpatch)
		object->klp->callbacks.post_unpatch(object->klp);
	object->called = false;
}
