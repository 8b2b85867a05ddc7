// SPDX-License-Identifier: GPL-2.0-only
/* Not there yet. */
#include "core.h"

LIST_HEAD(rb_sites);
