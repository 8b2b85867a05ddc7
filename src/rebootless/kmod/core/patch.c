// SPDX-License-Identifier: GPL-2.0-only
/*
 * Patches: taking in, and letting go.
 *
 * A patch holds a reference of its module and one of the core from the beginning of
 * rebootless_enable_patch() to the end of its release, which is a work: whoever ends
 * a transition may be within a file of the patch in sysfs, which cannot be removed
 * before that has returned.
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/sched/signal.h>
#include <linux/string.h>

#include "core.h"

/* How long a patch waits for an object's init to end. */
#define UNCLEAR HZ

LIST_HEAD(rb_patches);

static const struct rb_engine *const engines[] = { &rb_engine_atomic, &rb_engine_pertask };

static const struct rb_engine *find_engine(const char *name)
{
	unsigned int n;

	for (n = 0; n < ARRAY_SIZE(engines); n++) {
		if (!strcmp(engines[n]->name, name))
			return engines[n];
	}
	return NULL;
}

static int judge(const struct rebootless_patch *description)
{
	const struct klp_patch *patch;

	if (!description || description->abi != REBOOTLESS_CORE_ABI) {
		pr_err("a patch was made for another version of this module (%u; this is %u)\n",
		       description ? description->abi : 0, REBOOTLESS_CORE_ABI);
		return -EPROTO;
	}
	patch = description->patch;
	if (!patch || !patch->mod || !patch->objs || !description->engine)
		return -EINVAL;
	if (!find_engine(description->engine)) {
		pr_err("'%s': there is no engine '%s'\n", patch->mod->name, description->engine);
		return -EINVAL;
	}
	return 0;
}

static struct rb_patch *make(const struct rebootless_patch *description)
{
	struct rb_patch *patch = rb_alloc(sizeof(*patch));

	if (!patch)
		return NULL;
	INIT_LIST_HEAD(&patch->list);
	init_completion(&patch->released);
	patch->module = description->patch->mod;
	patch->klp = description->patch;
	patch->relocs = description->relocs;
	patch->entries = description->entries;
	patch->engine = find_engine(description->engine);
	patch->state = RB_DISABLED;
	return patch;
}

/* The last of a patch. Waits for readers of its files, so not with rb_mutex held. */
static void let_go(struct rb_patch *patch)
{
	struct module *module = patch->forced ? NULL : patch->module;
	/* where the kernel has no shadow variables, the patch's code calls ours */
	struct module *core = patch->forced && !IS_ENABLED(CONFIG_LIVEPATCH) ? NULL : THIS_MODULE;

	rb_sysfs_remove(patch);
	rb_objects_free(patch);
	rb_free(patch);
	module_put(module);
	module_put(core);
}

/* With the mutex free in between: others need not wait for all of it. */
static void sweep(void)
{
	bool more = true;

	while (more) {
		mutex_lock(&rb_mutex);
		more = rb_sites_sweep_one();
		mutex_unlock(&rb_mutex);
	}
}

static void release(struct work_struct *work)
{
	sweep();
	let_go(container_of(work, struct rb_patch, release));
}

void rb_patch_gone(struct rb_patch *patch)
{
	patch->state = RB_DISABLED;
	list_del_init(&patch->list);
	if (rb_transition.last == patch)
		rb_transition.last = NULL;
	INIT_WORK(&patch->release, release);
	queue_work(rb_queue, &patch->release);
}

/* Cumulative patches know the states of those that they replace. */
static int judge_states(const struct rb_patch *patch)
{
	struct rb_patch *other;

	list_for_each_entry(other, &rb_patches, list) {
		if (rb_states_follow(patch->klp, other->klp))
			continue;
		pr_err("'%s': does not know the system states of '%s', which is in force\n",
		       patch->module->name, other->module->name);
		return -EINVAL;
	}
	return 0;
}

/* What needs no module to be there: addresses in the kernel proper, what follows from them. */
static int relocate(struct rb_patch *patch, const struct rebootless_patch *description)
{
	int error = rb_relocate(patch, "vmlinux");

	if (!error && description->relocated)
		description->relocated();
	return error;
}

static int enable(struct rb_patch *patch, const struct rebootless_patch *description)
{
	unsigned int n;
	int error;

	if (rb_transition.patch) {
		pr_err("'%s': the transition of '%s' is not over yet\n", patch->module->name,
		       rb_transition.patch->module->name);
		return -EBUSY;
	}
	error = patch->engine->usable();
	if (!error)
		error = judge_states(patch);
	if (!error)
		error = relocate(patch, description);
	if (!error)
		error = rb_objects_load(patch);
	if (error)
		return error;
	list_add_tail(&patch->list, &rb_patches);
	error = rb_transition_enable(patch);
	if (!error)
		return 0;
	list_del_init(&patch->list);
	rb_transition.last = NULL;
	for (n = 0; n < patch->count; n++)
		rb_object_forget(&patch->objects[n]);
	return error;
}

/* As often as an object is in its init, of which we were not told; most come out soon. */
static int enable_in_time(struct rb_patch *patch, const struct rebootless_patch *description)
{
	unsigned long deadline = jiffies + UNCLEAR;
	const char *unclear;
	int error;

	for (;;) {
		mutex_lock(&rb_mutex);
		unclear = rb_objects_unclear(patch);
		error = unclear ? -EBUSY : enable(patch, description);
		mutex_unlock(&rb_mutex);
		if (!unclear || fatal_signal_pending(current))
			return error;
		if (time_after(jiffies, deadline))
			break;
		msleep(20);
	}
	pr_err("'%s': the module '%s' has been in its init since before this one was loaded, so tasks may be in its code: apply the patch when that is over\n",
	       patch->module->name, unclear);
	return error;
}

int rebootless_enable_patch(const struct rebootless_patch *description)
{
	struct rb_patch *patch;
	int error = judge(description);

	if (error)
		return error;
	patch = make(description);
	if (!patch)
		return -ENOMEM;
	if (!try_module_get(patch->module)) {
		rb_free(patch);
		return -ENODEV;
	}
	__module_get(THIS_MODULE);
	if (description->services)
		*description->services = &rb_services;
	error = rb_objects_init(patch);
	if (!error)	/* not with rb_mutex held: it may fail with some files there already */
		error = rb_sysfs_add(patch);
	if (!error)
		error = enable_in_time(patch, description);
	if (error) {
		pr_err("'%s': is not applied (%d)\n", patch->module->name, error);
		let_go(patch);
		return error;
	}
	/* as mainline does for modules that say that they are live patches */
	add_taint(TAINT_LIVEPATCH, LOCKDEP_STILL_OK);
	return 0;
}
EXPORT_SYMBOL_GPL(rebootless_enable_patch);
