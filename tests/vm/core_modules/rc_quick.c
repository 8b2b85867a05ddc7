// SPDX-License-Identifier: GPL-2.0
/* Changes the function of rc_slow. */
#include "rc_common.h"

static int rc_quick_version(void)
{
	return 1;
}

static struct klp_func rc_funcs[] = {
	{ .old_name = "rc_slow_version", .new_func = rc_quick_version, },
	{ }
};

static struct klp_object rc_objects[] = {
	{ .name = "rc_slow", .funcs = rc_funcs, RC_CALLBACKS },
	{ }
};

RC_PATCH(0, false);
