// SPDX-License-Identifier: GPL-2.0
/* Changes a function of the tracer, which ftrace does not know: only a jump leads away. */
#include <linux/fs.h>

#include "rc_common.h"

static ssize_t rc_readme(struct file *file, char __user *to, size_t count, loff_t *position)
{
	static const char text[] = KBUILD_MODNAME "\n";

	return simple_read_from_buffer(to, count, position, text, sizeof(text) - 1);
}

static struct klp_func rc_funcs[] = {
	{ .old_name = "tracing_readme_read", .new_func = rc_readme, },
	{ }
};

static struct klp_object rc_objects[] = {
	{ .funcs = rc_funcs, RC_CALLBACKS },
	{ }
};

RC_PATCH(0, false);
