// SPDX-License-Identifier: GPL-2.0
/* Two functions of the kernel, one of a module, and a system state. */
#include "rc_common.h"

RC_DUMMY(1001);

static struct klp_func rc_funcs[] = {
	{ .old_name = "version_proc_show", .new_func = rc_version, },
	{ .old_name = "loadavg_proc_show", .new_func = rc_loadavg, },
	{ }
};

static struct klp_object rc_objects[] = {
	{ .funcs = rc_funcs, RC_CALLBACKS },
	RC_DUMMY_OBJECT,
	{ }
};

RC_PATCH(1, false);
