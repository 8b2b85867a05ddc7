// SPDX-License-Identifier: GPL-2.0-only
/* Not there yet. */
#include "core.h"

int rb_symbols_init(void)
{
	return 0;
}

void *rb_kernel_symbol(const char *name)
{
	return NULL;
}

int rb_find_symbol(const char *object, const char *name, unsigned long position,
		   unsigned long *address)
{
	return -EOPNOTSUPP;
}
