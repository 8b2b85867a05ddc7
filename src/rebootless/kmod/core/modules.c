// SPDX-License-Identifier: GPL-2.0-only
/*
 * Objects come and go with their modules, also while a transition goes on.
 *
 *	COMING	nobody runs the module's code yet: the patches are in force when its init
 *		begins, or the module is refused
 *	LIVE	nothing to do
 *	GOING	nobody runs it any more
 *
 * A module that is in its init while a patch is enabled is there for the patch, as anybody
 * may run its code, if we were told of it. Otherwise we are about to be, or its init began
 * before this module was loaded: the patch waits until that is known (rb_objects_unclear()).
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/notifier.h>
#include <linux/string.h>

#include "core.h"

/* In its init, and we were told. */
struct starting {
	struct list_head list;
	const struct module *module;
};

static LIST_HEAD(all_starting);

static struct starting *find_starting(const struct module *module)
{
	struct starting *starting;

	list_for_each_entry(starting, &all_starting, list) {
		if (starting->module == module)
			return starting;
	}
	return NULL;
}

static int remember(const struct module *module)
{
	struct starting *starting = rb_alloc(sizeof(*starting));

	if (!starting)
		return -ENOMEM;
	starting->module = module;
	list_add(&starting->list, &all_starting);
	return 0;
}

static void forget(const struct module *module)
{
	struct starting *starting = find_starting(module);

	if (starting) {
		list_del(&starting->list);
		rb_free(starting);
	}
}

/* Under rb_mutex: a module of which this is true stays at least until that is let go. */
bool rb_module_is_there(const struct module *module)
{
	return module->state == MODULE_STATE_LIVE || find_starting(module);
}

static struct rb_object *object_of(struct rb_patch *patch, const struct module *module)
{
	unsigned int n;

	for (n = 0; n < patch->count; n++) {
		if (patch->objects[n].klp->name &&
		    !strcmp(patch->objects[n].klp->name, module->name))
			return &patch->objects[n];
	}
	return NULL;
}

static int settle(struct rb_object *object)
{
	unsigned int n;
	int error = 0;

	for (n = 0; !error && n < object->count; n++)
		error = rb_site_settle(object->funcs[n].site);
	return error;
}

static int bring(struct rb_object *object, struct module *module)
{
	int error = rb_object_load(object, module);

	if (error)
		return error;
	pr_notice("'%s': is applied to module '%s', which is being loaded\n",
		  object->patch->module->name, module->name);
	error = rb_pre_patch(object);
	if (error)
		goto forget;
	error = settle(object);
	if (error)
		goto unpatch;
	if (object->patch != rb_transition.patch)
		rb_post_patch(object);
	return 0;
unpatch:
	rb_object_unload(object);
	rb_post_unpatch(object);
forget:
	rb_object_forget(object);
	return error;
}

/* Tasks that enter the module's code from now on are asked about it, or are no more. */
static int collect(void)
{
	return rb_transition.patch ? rb_code_collect(&rb_transition) : 0;
}

static void going(const struct module *module)
{
	struct rb_object *object;
	struct rb_patch *patch;

	list_for_each_entry(patch, &rb_patches, list) {
		object = object_of(patch, module);
		if (!object || !object->loaded)
			continue;
		if (patch != rb_transition.patch)
			rb_pre_unpatch(object);
		pr_notice("'%s': is taken off module '%s', which is being unloaded\n",
			  patch->module->name, module->name);
		rb_object_unload(object);
		rb_post_unpatch(object);
		rb_object_forget(object);
	}
	if (collect())
		pr_warn("module '%s' goes and its code is still looked for\n", module->name);
}

static int coming(struct module *module)
{
	struct rb_object *object;
	struct rb_patch *patch;
	int error;

	list_for_each_entry(patch, &rb_patches, list) {
		object = object_of(patch, module);
		if (!object || object->loaded)
			continue;
		error = bring(object, module);
		if (error) {
			pr_warn("'%s': cannot be applied to module '%s' (%d)\n",
				patch->module->name, module->name, error);
			return error;
		}
	}
	return collect();
}

/* As long as its init has not run, a module can be refused. */
static int starts(struct module *module)
{
	int error = remember(module);

	if (!error)
		error = coming(module);
	if (error) {
		forget(module);
		going(module);
		pr_warn("module '%s' is refused: it would be without its patches\n",
			module->name);
	}
	return error;
}

static int notified(struct notifier_block *block, unsigned long state, void *data)
{
	struct module *module = data;
	int error = 0;

	mutex_lock(&rb_mutex);
	switch (state) {
	case MODULE_STATE_COMING:
		error = starts(module);
		break;
	case MODULE_STATE_LIVE:
		forget(module);
		break;
	case MODULE_STATE_GOING:
		forget(module);
		going(module);
		break;
	}
	mutex_unlock(&rb_mutex);
	return notifier_from_errno(error);
}

/* After jump labels and static calls have settled a new module's code. */
static struct notifier_block notifier = {
	.notifier_call = notified,
	.priority = -1,
};

int rb_notifier_init(void)
{
	return register_module_notifier(&notifier);
}

void rb_notifier_exit(void)
{
	struct starting *starting, *next;

	unregister_module_notifier(&notifier);
	list_for_each_entry_safe(starting, next, &all_starting, list)
		rb_free(starting);
}
