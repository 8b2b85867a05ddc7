// SPDX-License-Identifier: GPL-2.0-only
/* The module: its parts come and go in order; memory; waiting for all CPUs. */
#include <linux/cpu.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "core.h"

DEFINE_MUTEX(rb_mutex);

/* Of a test: the allocation, counted from 1, that fails. 0 is none. */
static unsigned int fail_at;
module_param(fail_at, uint, 0600);
MODULE_PARM_DESC(fail_at, "for tests: the allocation, from now on, that fails (0: none)");

bool rb_fails(void)
{
	unsigned int left = READ_ONCE(fail_at);

	if (likely(!left))
		return false;
	WRITE_ONCE(fail_at, left - 1);
	return left == 1;
}

void *rb_alloc(size_t size)
{
	return rb_fails() ? NULL : kvzalloc(size, GFP_KERNEL);
}

void rb_free(const void *memory)
{
	kvfree(memory);
}

static void passed(struct work_struct *work)
{
}

static DEFINE_PER_CPU(struct work_struct, passing);

/*
 * Redirections run with preemption off, so a CPU that has scheduled a work has left
 * those that it was in. RCU does not tell: it does not watch all code that can be
 * patched (idle, entry).
 */
void rb_synchronize(void)
{
	static DEFINE_MUTEX(one);
	int cpu;

	mutex_lock(&one);
	cpus_read_lock();
	for_each_online_cpu(cpu) {
		INIT_WORK(per_cpu_ptr(&passing, cpu), passed);
		schedule_work_on(cpu, per_cpu_ptr(&passing, cpu));
	}
	for_each_online_cpu(cpu)
		flush_work(per_cpu_ptr(&passing, cpu));
	cpus_read_unlock();
	mutex_unlock(&one);
}

struct part {
	int (*init)(void);
	void (*exit)(void);
};

static const struct part parts[] = {
	{ rb_symbols_init },
	{ NULL, rb_shadow_exit },
	{ rb_pertask_init, rb_pertask_exit },
	{ rb_transition_init, rb_transition_exit },
	{ rb_sysfs_init, rb_sysfs_exit },
	{ rb_notifier_init, rb_notifier_exit },
	{ rb_drive_init, rb_drive_exit },
};

static void leave(unsigned int count)
{
	while (count--) {
		if (parts[count].exit)
			parts[count].exit();
	}
}

static int __init core_init(void)
{
	unsigned int n;
	int error;

	for (n = 0; n < ARRAY_SIZE(parts); n++) {
		error = parts[n].init ? parts[n].init() : 0;
		if (error) {
			leave(n);
			return error;
		}
	}
	return 0;
}

/* No patch is there: each holds a reference of the module. */
static void __exit core_exit(void)
{
	leave(ARRAY_SIZE(parts));
}

module_init(core_init);
module_exit(core_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Live patches by engines that are not the kernel's own");
