// SPDX-License-Identifier: GPL-2.0-only
/* Not there yet. */
#include "core.h"

static int check(struct rb_site *site)
{
	return -EOPNOTSUPP;
}

const struct rb_redirect rb_redirect_jump = { .name = "jump", .check = check };
