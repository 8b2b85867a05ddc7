// SPDX-License-Identifier: GPL-2.0
/* Goes on top of rc_base. */
#include "rc_common.h"

RC_DUMMY(1002);

static struct klp_func rc_funcs[] = {
	{ .old_name = "version_proc_show", .new_func = rc_version, },
	{ }
};

static struct klp_object rc_objects[] = {
	{ .funcs = rc_funcs, RC_CALLBACKS },
	RC_DUMMY_OBJECT,
	{ }
};

RC_PATCH(0, false);
