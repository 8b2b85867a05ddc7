// SPDX-License-Identifier: GPL-2.0-only
/* Not there yet. */
#include "core.h"

LIST_HEAD(rb_patches);

int rebootless_enable_patch(const struct rebootless_patch *patch)
{
	return -EOPNOTSUPP;
}
EXPORT_SYMBOL_GPL(rebootless_enable_patch);
