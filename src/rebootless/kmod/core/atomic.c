// SPDX-License-Identifier: GPL-2.0-only
/* Not there yet. */
#include "core.h"

static int usable(void)
{
	return -EOPNOTSUPP;
}

const struct rb_engine rb_engine_atomic = { .name = "atomic", .usable = usable };
