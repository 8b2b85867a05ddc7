// SPDX-License-Identifier: GPL-2.0
/* Takes the place of rc_base, and leaves some of its functions alone. */
#include "rc_common.h"

static struct klp_func rc_funcs[] = {
	{ .old_name = "version_proc_show", .new_func = rc_version, },
	{ }
};

static struct klp_object rc_objects[] = {
	{ .funcs = rc_funcs, RC_CALLBACKS },
	{ }
};

RC_PATCH(2, true);
