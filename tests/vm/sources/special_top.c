/* Goes in front of version_proc_show() of fs/proc/version.c: code with entries of every kind. */
#include <linux/filter.h>
#include <linux/delayacct.h>
#include <linux/sched/cputime.h>
#include <linux/static_call.h>
#include <linux/uaccess.h>
#include <asm/paravirt.h>
#include <asm/msr.h>

DEFINE_STATIC_KEY_FALSE(rl_own_key);
static DEFINE_STATIC_KEY_TRUE(rl_second_key);
static atomic_t rl_reads;
u64 (*volatile rl_steal)(int cpu);

static int rl_first_way(void)
{
	return 1;
}

static int rl_second_way(void)
{
	return 2;
}

DEFINE_STATIC_CALL(rl_way, rl_first_way);

static u64 rl_paravirt_steal(int cpu)
{
	return paravirt_steal_clock(cpu);
}

noinline int rl_resched(void)
{
	return cond_resched();
}

static noinline int rl_fault(void)
{
	int value = 1;
	void __user *bad = (void __user *)0x10;

	if (!user_access_begin(bad, sizeof(value)))
		return -EPERM;
	unsafe_get_user(value, (int __user *)bad, Efault);
	user_access_end();
	return value;
Efault:
	user_access_end();
	return -EFAULT;
}

static noinline void rl_page(struct seq_file *m)
{
	unsigned char *page = (void *)__get_free_page(GFP_KERNEL);

	if (!page)
		return;
	memset(page, 0xff, PAGE_SIZE);
	clear_page(page);
	seq_printf(m, "rl page %d\n", !memchr_inv(page, 0, PAGE_SIZE));
	seq_printf(m, "rl copy %lu\n", __copy_from_user(page, (void __user *)0x10, 64));
	seq_printf(m, "rl guest %d weight %u tsc %d\n", static_cpu_has(X86_FEATURE_HYPERVISOR),
		   hweight64(0xff00ff), rdtsc_ordered() != 0);
	free_page((unsigned long)page);
}
