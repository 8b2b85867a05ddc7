// SPDX-License-Identifier: GPL-2.0-only
/* Not there yet. */
#include "core.h"

struct kobject *rb_kobj;

int rb_sysfs_init(void)
{
	rb_kobj = kobject_create_and_add("rebootless", kernel_kobj);
	return rb_kobj ? 0 : -ENOMEM;
}

void rb_sysfs_exit(void)
{
	kobject_put(rb_kobj);
}
