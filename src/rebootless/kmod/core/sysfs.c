// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/rebootless: mainline's layout, and what the engines tell beyond it.
 *
 *	version				the ABI for patch modules
 *	patches/NAME/enabled		1; write 0 to undo the patch, or to turn the
 *					transition that applies it, 1 to turn it again
 *	            /transition		1 while it goes on
 *	            /force		write 1: whoever has not moved is declared to have
 *	            /signal		write 1: wake those that hold it, from now on
 *	            /replace, stack_order, engine
 *	            /left		tasks that have not moved, by the last attempt
 *	            /held		of these, PID TID FUNCTION COMM in lines, by tabs
 *	            /stats		lines of a key and a number
 *	            /OBJECT/patched	1 while the object is there
 *	            /OBJECT/FUNCTION,POSITION/
 *
 * These directories go outside of rb_mutex, which their files take.
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/kobject.h>
#include <linux/ktime.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "core.h"

struct kobject *rb_kobj;
static struct kobject *patches_kobj;

static struct rb_patch *patch_of(struct kobject *kobj)
{
	return container_of(kobj, struct rb_patch, kobj);
}

static ssize_t version_show(struct kobject *kobj, struct kobj_attribute *attribute, char *text)
{
	return sysfs_emit(text, "%d\n", REBOOTLESS_CORE_ABI);
}

static struct kobj_attribute version_attribute = __ATTR_RO(version);

static ssize_t enabled_show(struct kobject *kobj, struct kobj_attribute *attribute, char *text)
{
	bool enabled;

	mutex_lock(&rb_mutex);
	enabled = rb_patch_is_enabled(patch_of(kobj));
	mutex_unlock(&rb_mutex);
	return sysfs_emit(text, "%d\n", enabled);
}

static ssize_t enabled_store(struct kobject *kobj, struct kobj_attribute *attribute,
			     const char *text, size_t length)
{
	bool enabled;
	int error = kstrtobool(text, &enabled);

	if (!error)
		error = rb_patch_set_enabled(patch_of(kobj), enabled);
	return error ?: length;
}

static ssize_t transition_show(struct kobject *kobj, struct kobj_attribute *attribute, char *text)
{
	return sysfs_emit(text, "%d\n", patch_of(kobj) == READ_ONCE(rb_transition.patch));
}

static ssize_t asked(struct kobject *kobj, const char *text, size_t length,
		     int (*action)(struct rb_patch *patch))
{
	bool yes;
	int error = kstrtobool(text, &yes);

	if (!error)
		error = yes ? action(patch_of(kobj)) : -EINVAL;
	return error ?: length;
}

static ssize_t force_store(struct kobject *kobj, struct kobj_attribute *attribute,
			   const char *text, size_t length)
{
	return asked(kobj, text, length, rb_patch_force);
}

static ssize_t signal_store(struct kobject *kobj, struct kobj_attribute *attribute,
			    const char *text, size_t length)
{
	return asked(kobj, text, length, rb_patch_signal);
}

static ssize_t signal_show(struct kobject *kobj, struct kobj_attribute *attribute, char *text)
{
	bool signal;

	mutex_lock(&rb_mutex);
	signal = patch_of(kobj) == rb_transition.patch && rb_transition.signal;
	mutex_unlock(&rb_mutex);
	return sysfs_emit(text, "%d\n", signal);
}

static ssize_t replace_show(struct kobject *kobj, struct kobj_attribute *attribute, char *text)
{
	return sysfs_emit(text, "%d\n", patch_of(kobj)->klp->replace);
}

static ssize_t stack_order_show(struct kobject *kobj, struct kobj_attribute *attribute, char *text)
{
	struct rb_patch *patch;
	int order = 0;

	mutex_lock(&rb_mutex);
	list_for_each_entry(patch, &rb_patches, list) {
		order++;
		if (patch == patch_of(kobj))
			break;
	}
	mutex_unlock(&rb_mutex);
	return sysfs_emit(text, "%d\n", order);
}

static ssize_t engine_show(struct kobject *kobj, struct kobj_attribute *attribute, char *text)
{
	return sysfs_emit(text, "%s\n", patch_of(kobj)->engine->name);
}

static ssize_t left_show(struct kobject *kobj, struct kobj_attribute *attribute, char *text)
{
	unsigned int left = 0;

	mutex_lock(&rb_mutex);
	if (patch_of(kobj) == rb_transition.last)
		left = rb_transition.held.left;
	mutex_unlock(&rb_mutex);
	return sysfs_emit(text, "%u\n", left);
}

/* A file of sysfs has a page: those that do not fit are not named. */
static ssize_t held_show(struct kobject *kobj, struct kobj_attribute *attribute, char *text)
{
	const struct rb_held *held = &rb_transition.held;
	const struct rb_holder *who;
	int length = 0;
	unsigned int n;

	mutex_lock(&rb_mutex);
	for (n = 0; patch_of(kobj) == rb_transition.last && n < held->count; n++) {
		who = &held->who[n];
		if (length + sizeof(*who) + 32 > PAGE_SIZE)
			break;
		length += sysfs_emit_at(text, length, "%d\t%d\t%s\t%s\n", who->pid, who->tid,
					who->function, who->comm);
	}
	mutex_unlock(&rb_mutex);
	return length;
}

static ssize_t stats_show(struct kobject *kobj, struct kobj_attribute *attribute, char *text)
{
	struct rb_stats stats;

	mutex_lock(&rb_mutex);
	stats = patch_of(kobj)->stats;
	if (patch_of(kobj) == rb_transition.patch)
		stats.elapsed_ns = ktime_get_ns() - stats.begun_ns;
	mutex_unlock(&rb_mutex);
	return sysfs_emit(text,
			  "attempts %u\nelapsed_ns %llu\nstop_ns %llu\nwalked %u\nrewalked %u\nsignalled %u\n",
			  stats.attempts, stats.elapsed_ns, stats.stop_ns, stats.walked,
			  stats.rewalked, stats.signalled);
}

static ssize_t patched_show(struct kobject *kobj, struct kobj_attribute *attribute, char *text)
{
	struct rb_object *object = container_of(kobj, struct rb_object, kobj);
	bool patched;

	mutex_lock(&rb_mutex);
	patched = object->loaded;
	mutex_unlock(&rb_mutex);
	return sysfs_emit(text, "%d\n", patched);
}

static struct kobj_attribute enabled_attribute = __ATTR_RW(enabled);
static struct kobj_attribute transition_attribute = __ATTR_RO(transition);
static struct kobj_attribute force_attribute = __ATTR_WO(force);
static struct kobj_attribute signal_attribute = __ATTR_RW(signal);
static struct kobj_attribute replace_attribute = __ATTR_RO(replace);
static struct kobj_attribute stack_order_attribute = __ATTR_RO(stack_order);
static struct kobj_attribute engine_attribute = __ATTR_RO(engine);
static struct kobj_attribute left_attribute = __ATTR_RO(left);
static struct kobj_attribute held_attribute = __ATTR_RO(held);
static struct kobj_attribute stats_attribute = __ATTR_RO(stats);
static struct kobj_attribute patched_attribute = __ATTR_RO(patched);

static struct attribute *patch_attrs[] = {
	&enabled_attribute.attr,
	&transition_attribute.attr,
	&force_attribute.attr,
	&signal_attribute.attr,
	&replace_attribute.attr,
	&stack_order_attribute.attr,
	&engine_attribute.attr,
	&left_attribute.attr,
	&held_attribute.attr,
	&stats_attribute.attr,
	NULL
};
ATTRIBUTE_GROUPS(patch);

static struct attribute *object_attrs[] = {
	&patched_attribute.attr,
	NULL
};
ATTRIBUTE_GROUPS(object);

/* A patch's directory goes after those below it, which hold it. */
static void patch_released(struct kobject *kobj)
{
	complete(&patch_of(kobj)->released);
}

/* The memory is the patch's. */
static void part_released(struct kobject *kobj)
{
}

static struct kobj_type patch_type = {
	.release = patch_released,
	.sysfs_ops = &kobj_sysfs_ops,
	.default_groups = patch_groups,
};

static struct kobj_type object_type = {
	.release = part_released,
	.sysfs_ops = &kobj_sysfs_ops,
	.default_groups = object_groups,
};

static struct kobj_type func_type = {
	.release = part_released,
	.sysfs_ops = &kobj_sysfs_ops,
};

static int add_object(struct rb_object *object)
{
	struct rb_func *func;
	unsigned int n;
	int error;

	error = rb_fails() ? -ENOMEM :
		kobject_init_and_add(&object->kobj, &object_type, &object->patch->kobj, "%s",
				     rb_object_name(object));
	for (n = 0; !error && n < object->count; n++) {
		func = &object->funcs[n];
		error = rb_fails() ? -ENOMEM :
			kobject_init_and_add(&func->kobj, &func_type, &object->kobj, "%s,%lu",
					     func->klp->old_name, func->klp->old_sympos ?: 1);
	}
	return error;
}

/* Error: rb_sysfs_remove() takes what there is. */
int rb_sysfs_add(struct rb_patch *patch)
{
	unsigned int n;
	int error;

	error = rb_fails() ? -ENOMEM :
		kobject_init_and_add(&patch->kobj, &patch_type, patches_kobj, "%s",
				     patch->module->name);
	for (n = 0; !error && n < patch->count; n++)
		error = add_object(&patch->objects[n]);
	return error;
}

static void put(struct kobject *kobj)
{
	if (kobj->state_initialized)
		kobject_put(kobj);
}

void rb_sysfs_remove(struct rb_patch *patch)
{
	struct rb_object *object;
	unsigned int n, m;

	for (n = 0; n < patch->count; n++) {
		object = &patch->objects[n];
		for (m = 0; object->funcs && m < object->count; m++)
			put(&object->funcs[m].kobj);
		put(&object->kobj);
	}
	if (patch->kobj.state_initialized) {
		kobject_put(&patch->kobj);
		wait_for_completion(&patch->released);
	}
}

int rb_sysfs_init(void)
{
	int error = -ENOMEM;

	rb_kobj = kobject_create_and_add("rebootless", kernel_kobj);
	if (!rb_kobj)
		return -ENOMEM;
	patches_kobj = kobject_create_and_add("patches", rb_kobj);
	if (patches_kobj)
		error = sysfs_create_file(rb_kobj, &version_attribute.attr);
	if (error)
		rb_sysfs_exit();
	return error;
}

void rb_sysfs_exit(void)
{
	kobject_put(patches_kobj);
	kobject_put(rb_kobj);
}
