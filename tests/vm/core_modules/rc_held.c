// SPDX-License-Identifier: GPL-2.0
/* A task that waits for a FIFO's other end holds it, while a module comes and goes. */
#include <linux/fs.h>
#include <linux/sched/signal.h>

#include "rc_common.h"

/* In this version nobody ever comes. */
static noinline int rc_fifo_open(struct inode *inode, struct file *file)
{
	while (!signal_pending(current)) {
		set_current_state(TASK_INTERRUPTIBLE);
		schedule();
	}
	__set_current_state(TASK_RUNNING);
	return -EINTR;
}

RC_DUMMY(1003);

static struct klp_func rc_funcs[] = {
	{ .old_name = "fifo_open", .new_func = rc_fifo_open, },
	{ .old_name = "version_proc_show", .new_func = rc_version, },
	{ }
};

static struct klp_object rc_objects[] = {
	{ .funcs = rc_funcs, RC_CALLBACKS },
	RC_DUMMY_OBJECT,
	{ }
};

RC_PATCH(0, false);
