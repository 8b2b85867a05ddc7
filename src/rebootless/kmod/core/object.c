// SPDX-License-Identifier: GPL-2.0-only
/* Not there yet. */
#include "core.h"

int rb_notifier_init(void)
{
	return 0;
}

void rb_notifier_exit(void)
{
}
