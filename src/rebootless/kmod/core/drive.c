// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes a transition of mainline's livepatch quick.
 *
 * Mainline walks all stacks once when a transition begins, and then once a second;
 * after 15 walks it sends signals. What holds a transition is mostly gone within
 * milliseconds, so we run the kernel's own work item sooner: at once, and then after
 * pauses that begin with one jiffy and double up to half a second, until the
 * transition ends. Nothing of the transition is ours, only its timing.
 *
 * Signals. The kernel sends them when its count of walks reaches a multiple of 15,
 * which our walks would reach within a second. So the count is set back before each
 * of them, and since our pauses stay below the kernel's second it never gets there
 * by itself: a driven transition signals when it is told to, and not before. When
 * told, the count is set to 15 for the next walk, and again once a second for those
 * that went to sleep once more.
 *
 *	/sys/kernel/rebootless/livepatch/drive		1 while a transition is driven;
 *							write 1: drive it, without signals
 *	/sys/kernel/rebootless/livepatch/signal		1 when signals are sent;
 *							write 1: drive it, and signal
 *
 * A write without a transition does nothing: it may have ended a moment before.
 *
 * The kernel's variables are found by name. Where one is missing, or does not look
 * as we know it, the directory is not there and mainline goes its own pace.
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include "core.h"

#ifdef CONFIG_LIVEPATCH
#include <linux/jiffies.h>
#include <linux/livepatch.h>
#include <linux/workqueue.h>

#define PAUSE_MAX	(HZ / 2)	/* below the kernel's own second, see above */
#define SIGNAL_PAUSE	HZ
#define SIGNAL_COUNT	15		/* signals, told in the log */
#define SIGNAL_AGAIN	30		/* signals, not told again */

/* The kernel's. The first three are guarded by the last. */
static struct klp_patch **transition_patch;
static unsigned int *signals_count;
static struct delayed_work *transition_work;
static struct mutex *livepatch_mutex;

/* Ours, guarded by drive_mutex, which is taken first. */
static DEFINE_MUTEX(drive_mutex);
static struct klp_patch *driven;	/* NULL: none */
static bool signals;
static bool signalled;			/* once, in this transition */
static unsigned long signals_due;	/* jiffies */
static unsigned long pause;		/* jiffies */

static void drive_once(struct work_struct *work);
static DECLARE_DELAYED_WORK(drive_work, drive_once);

static void drive_end(void)
{
	driven = NULL;
	signals = false;
}

/*
 * One try. The kernel's work runs after we let go of its mutex; should its own timer
 * come in between, that try takes the count instead, to the same effect.
 */
static void drive_once(struct work_struct *work)
{
	bool signal;

	mutex_lock(&drive_mutex);
	mutex_lock(livepatch_mutex);
	if (!driven || *transition_patch != driven) {
		/* ended; a transition that came after it is not ours to drive */
		drive_end();
		goto unlock;
	}
	signal = signals && (!signalled || time_after_eq(jiffies, signals_due));
	if (signal) {
		*signals_count = signalled ? SIGNAL_AGAIN : SIGNAL_COUNT;
		signalled = true;
		signals_due = jiffies + SIGNAL_PAUSE;
		pause = 1;	/* those that were woken leave soon */
	} else {
		*signals_count = 1;
	}
	mod_delayed_work(system_wq, transition_work, 0);
	schedule_delayed_work(&drive_work, pause);
	pause = min_t(unsigned long, 2 * pause, PAUSE_MAX);
unlock:
	mutex_unlock(livepatch_mutex);
	mutex_unlock(&drive_mutex);
}

static void drive_begin(bool with_signals)
{
	mutex_lock(&drive_mutex);
	mutex_lock(livepatch_mutex);
	if (driven != *transition_patch || !with_signals)
		signalled = false;
	driven = *transition_patch;
	signals = driven && with_signals;
	mutex_unlock(livepatch_mutex);
	if (driven) {
		pause = 1;
		mod_delayed_work(system_wq, &drive_work, 0);
	}
	mutex_unlock(&drive_mutex);
}

static ssize_t asked(bool with_signals, const char *text, size_t length)
{
	bool on;
	int error = kstrtobool(text, &on);

	if (error)
		return error;
	if (!on)
		return -EINVAL;
	drive_begin(with_signals);
	return length;
}

static ssize_t drive_store(struct kobject *kobj, struct kobj_attribute *attribute,
			   const char *text, size_t length)
{
	return asked(false, text, length);
}

static ssize_t drive_show(struct kobject *kobj, struct kobj_attribute *attribute, char *text)
{
	return sysfs_emit(text, "%d\n", !!READ_ONCE(driven));
}

static ssize_t signal_store(struct kobject *kobj, struct kobj_attribute *attribute,
			    const char *text, size_t length)
{
	return asked(true, text, length);
}

static ssize_t signal_show(struct kobject *kobj, struct kobj_attribute *attribute, char *text)
{
	return sysfs_emit(text, "%d\n", READ_ONCE(signals));
}

static struct kobj_attribute drive_attribute = __ATTR_RW(drive);
static struct kobj_attribute signal_attribute = __ATTR_RW(signal);

static struct attribute *drive_attributes[] = {
	&drive_attribute.attr,
	&signal_attribute.attr,
	NULL
};

static const struct attribute_group drive_group = { .attrs = drive_attributes };

static struct kobject *drive_kobj;

void rebootless_drive_livepatch(void)
{
	if (drive_kobj)
		drive_begin(false);
}
EXPORT_SYMBOL_GPL(rebootless_drive_livepatch);

/* That the work item runs the function we know shows that both are what they were. */
static bool found_all(void)
{
	transition_patch = rb_kernel_symbol("klp_transition_patch");
	signals_count = rb_kernel_symbol("klp_signals_cnt");
	transition_work = rb_kernel_symbol("klp_transition_work");
	livepatch_mutex = rb_kernel_symbol("klp_mutex");
	return transition_patch && signals_count && transition_work && livepatch_mutex &&
	       (void *)transition_work->work.func == rb_kernel_symbol("klp_transition_work_fn");
}

/* 0 also where this kernel's livepatch cannot be driven: the directory is missing then. */
int rb_drive_init(void)
{
	int error;

	if (!found_all()) {
		pr_notice("the transitions of this kernel's livepatch cannot be driven\n");
		return 0;
	}
	drive_kobj = kobject_create_and_add("livepatch", rb_kobj);
	if (!drive_kobj)
		return -ENOMEM;
	error = sysfs_create_group(drive_kobj, &drive_group);
	if (error) {
		kobject_put(drive_kobj);
		drive_kobj = NULL;
	}
	return error;
}

/* A transition that is driven goes on, once a second. */
void rb_drive_exit(void)
{
	if (!drive_kobj)
		return;
	kobject_put(drive_kobj);	/* no write comes any more */
	drive_kobj = NULL;
	mutex_lock(&drive_mutex);
	drive_end();
	mutex_unlock(&drive_mutex);
	cancel_delayed_work_sync(&drive_work);
}

#else

int rb_drive_init(void)
{
	return 0;
}

void rb_drive_exit(void)
{
}
#endif
