// SPDX-License-Identifier: GPL-2.0-only
/*
 * The way from one set of patches in force to another.
 *
 * A patch is in force `now`, `then`, or both; one transition at a time makes them
 * differ, and its end makes them the same again:
 *
 *				now	then	forward	reverse
 *	a patch that comes	no	yes	stays	goes
 *	one that is undone	yes	no	goes	stays
 *	one that is replaced	yes	no	goes	stays
 *	any other		yes	yes	stays	stays
 *
 * The engine is that of the patch that comes or is undone. It is asked again and again,
 * out of a work, until it has moved everybody or gives up; then the transition is
 * turned back. To turn a transition does not change where a site leads, only which
 * way tasks move.
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/jiffies.h>
#include <linux/ktime.h>

#include "core.h"

struct rb_transition rb_transition;
struct workqueue_struct *rb_queue;

static void progress(void);

static void work_on(struct work_struct *work)
{
	mutex_lock(&rb_mutex);
	if (rb_transition.patch)
		progress();
	mutex_unlock(&rb_mutex);
}

static DECLARE_DELAYED_WORK(progress_work, work_on);

static bool has_goal(const struct rb_patch *patch)
{
	return rb_transition.reverse ? patch->now : patch->then;
}

/* As mainline shows it: a patch that is being replaced is enabled until it is gone. */
bool rb_patch_is_enabled(const struct rb_patch *patch)
{
	return patch == rb_transition.patch ? has_goal(patch) : patch->now;
}

static const char *direction(void)
{
	return has_goal(rb_transition.patch) ? "patching" : "unpatching";
}

/* The transition has begun, or turned. */
static void set_out(void)
{
	struct rb_patch *patch = rb_transition.patch;

	patch->state = has_goal(patch) ? RB_APPLYING : RB_UNDOING;
	memset(&patch->stats, 0, sizeof(patch->stats));
	patch->stats.begun_ns = ktime_get_ns();
	pr_notice("'%s': starting %s transition\n", patch->module->name, direction());
}

static void settle_patches(void)
{
	struct rb_patch *patch;

	list_for_each_entry(patch, &rb_patches, list) {
		if (rb_transition.reverse)
			patch->then = patch->now;
		else
			patch->now = patch->then;
	}
}

static void post_callbacks(struct rb_patch *patch)
{
	unsigned int n;

	for (n = 0; n < patch->count; n++) {
		if (!patch->now)
			rb_post_unpatch(&patch->objects[n]);
		else if (patch->objects[n].loaded)
			rb_post_patch(&patch->objects[n]);
	}
}

static void unload(struct rb_patch *patch)
{
	unsigned int n;

	for (n = 0; n < patch->count; n++)
		rb_object_unload(&patch->objects[n]);
}

/* Every task has moved. */
static void complete_transition(void)
{
	struct rb_patch *patch = rb_transition.patch, *one, *next;

	patch->engine->finish(&rb_transition);
	settle_patches();
	rb_code_forget();
	list_for_each_entry(one, &rb_patches, list) {
		if (!one->now)
			unload(one);
	}
	post_callbacks(patch);
	patch->stats.elapsed_ns = ktime_get_ns() - patch->stats.begun_ns;
	pr_notice("'%s': %s complete\n", patch->module->name, direction());
	patch->state = RB_APPLIED;
	WRITE_ONCE(rb_transition.patch, NULL);
	list_for_each_entry_safe(one, next, &rb_patches, list) {
		if (!one->now)
			rb_patch_gone(one);
	}
}

static int turn(void)
{
	struct rb_transition *t = &rb_transition;
	int error;

	t->reverse = !t->reverse;
	error = rb_code_collect(t);
	if (error) {
		t->reverse = !t->reverse;
		return error;
	}
	t->signal = false;
	t->patch->engine->turn(t);
	set_out();
	return 0;
}

static void give_up(void)
{
	struct rb_transition *t = &rb_transition;
	unsigned int n;

	pr_warn("'%s': %s was tried %u times and is given up: %u tasks hold it\n",
		t->patch->module->name, direction(), t->patch->stats.attempts, t->held.left);
	for (n = 0; n < min(t->held.count, 5U); n++)
		pr_warn("'%s': held by %d/%d %s in %s\n", t->patch->module->name,
			t->held.who[n].pid, t->held.who[n].tid, t->held.who[n].comm,
			*t->held.who[n].function ? t->held.who[n].function : "?");
	if (!turn())
		progress();
	else
		mod_delayed_work(rb_queue, &progress_work, HZ);
}

/* One attempt, and what follows from it. */
static void progress(void)
{
	struct rb_transition *t = &rb_transition;
	unsigned long pause;

	t->last = t->patch;
	if (!t->patch->engine->attempt(t)) {
		complete_transition();
		return;
	}
	if (t->signal)
		t->patch->engine->signal(t);
	pause = t->patch->engine->pause(t);
	if (pause || t->reverse)
		mod_delayed_work(rb_queue, &progress_work, pause ?: HZ);
	else
		give_up();
}

/* `now` and `then` of the patches differ: the sites' do, until a failure. */
static int prepare(struct rb_patch *patch)
{
	struct rb_transition *t = &rb_transition;

	t->patch = patch;
	t->reverse = false;
	t->signal = false;
	t->held.left = 0;
	t->held.count = 0;
	rb_sites_aim();
	return rb_code_collect(t);
}

static void abandon(void)
{
	rb_transition.reverse = true;
	settle_patches();
	rb_sites_aim();
	rb_code_forget();
	rb_transition.patch = NULL;
}

static int pre_patch(struct rb_patch *patch)
{
	unsigned int n;
	int error = 0;

	for (n = 0; !error && n < patch->count; n++) {
		if (patch->objects[n].loaded)
			error = rb_pre_patch(&patch->objects[n]);
	}
	return error;
}

int rb_transition_enable(struct rb_patch *patch)
{
	struct rb_patch *other;
	int error;

	list_for_each_entry(other, &rb_patches, list) {
		if (patch->klp->replace)
			other->then = false;
	}
	patch->then = true;
	error = prepare(patch);
	if (error)
		goto abandon;
	error = pre_patch(patch);
	if (!error)
		error = rb_fails() ? -ENOMEM : patch->engine->begin(&rb_transition);
	if (error)
		goto unpatch;
	set_out();
	progress();
	return 0;
unpatch:
	post_callbacks(patch);
abandon:
	abandon();
	return error;
}

/* The patch that has to go first, since its code was made for being above this one's. */
static int refuse_covered(struct rb_patch *patch)
{
	struct rb_func *func, *newest;
	unsigned int n, m;

	for (n = 0; n < patch->count; n++) {
		for (m = 0; m < patch->objects[n].count; m++) {
			func = &patch->objects[n].funcs[m];
			if (!func->site)
				continue;
			newest = list_first_entry(&func->site->funcs, struct rb_func, stack);
			if (newest == func)
				continue;
			pr_err("'%s': '%s' is patched by '%s' as well, which came later and has to be undone first\n",
			       patch->module->name, func->klp->old_name,
			       newest->object->patch->module->name);
			return -EBUSY;
		}
	}
	return 0;
}

static int undo(struct rb_patch *patch)
{
	unsigned int n;
	int error = refuse_covered(patch);

	if (error)
		return error;
	patch->then = false;
	error = prepare(patch);
	if (error)
		goto abandon;
	for (n = 0; n < patch->count; n++) {
		if (patch->objects[n].loaded)
			rb_pre_unpatch(&patch->objects[n]);
	}
	error = rb_fails() ? -ENOMEM : patch->engine->begin(&rb_transition);
	if (error)
		goto patched;
	set_out();
	progress();
	return 0;
patched:
	post_callbacks(patch);
abandon:
	abandon();
	pr_err("'%s': cannot be undone now (%d)\n", patch->module->name, error);
	return error;
}

int rb_patch_set_enabled(struct rb_patch *patch, bool enabled)
{
	int error;

	mutex_lock(&rb_mutex);
	if (patch->state == RB_DISABLED || enabled == rb_patch_is_enabled(patch)) {
		error = -EINVAL;
	} else if (patch == rb_transition.patch) {
		error = turn();
		if (!error)
			progress();
	} else if (rb_transition.patch) {
		pr_err("'%s': the transition of '%s' is not over yet\n", patch->module->name,
		       rb_transition.patch->module->name);
		error = -EBUSY;
	} else {
		error = undo(patch);
	}
	mutex_unlock(&rb_mutex);
	return error;
}

int rb_patch_signal(struct rb_patch *patch)
{
	int error = -EINVAL;

	mutex_lock(&rb_mutex);
	if (patch == rb_transition.patch) {
		rb_transition.signal = true;
		patch->engine->signal(&rb_transition);
		mod_delayed_work(rb_queue, &progress_work, 0);
		error = 0;
	}
	mutex_unlock(&rb_mutex);
	return error;
}

/* Tasks may be in the code of what goes for as long as they like. */
static void keep_what_goes(void)
{
	struct rb_patch *patch;

	list_for_each_entry(patch, &rb_patches, list) {
		if (!has_goal(patch))
			patch->forced = true;
	}
}

int rb_patch_force(struct rb_patch *patch)
{
	int error = -EINVAL;

	mutex_lock(&rb_mutex);
	if (patch == rb_transition.patch) {
		pr_warn("'%s': %s is forced\n", patch->module->name, direction());
		error = patch->engine->force(&rb_transition);
		if (!error) {
			keep_what_goes();
			complete_transition();
		}
	}
	mutex_unlock(&rb_mutex);
	return error;
}

int rb_transition_init(void)
{
	rb_queue = alloc_workqueue("rebootless", WQ_UNBOUND, 0);
	return rb_queue ? 0 : -ENOMEM;
}

void rb_transition_exit(void)
{
	cancel_delayed_work_sync(&progress_work);
	destroy_workqueue(rb_queue);
}
