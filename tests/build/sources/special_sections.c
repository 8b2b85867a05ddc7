// SPDX-License-Identifier: GPL-2.0-only
/*
 * Every kind of special section that the kernel's own macros make. The tests compile it in a real
 * tree several times: A and B are what differs in the functions of one half or the other.
 */
#include <linux/atomic.h>
#include <linux/delayacct.h>
#include <linux/error-injection.h>
#include <linux/filter.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/mm.h>
#include <linux/ratelimit.h>
#include <linux/sched.h>
#include <linux/static_call.h>
#include <linux/syscalls.h>
#include <linux/uaccess.h>
#include <asm/msr.h>
#include <asm/paravirt.h>
#include <asm/tlbflush.h>
#include <asm/word-at-a-time.h>
#include <trace/events/task.h>

#ifndef A
#define A 0
#endif
#ifndef B
#define B 0
#endif
#ifndef WARN_TEXT
#define WARN_TEXT "special: %d\n"
#endif
#ifndef WARN_ON_KIND
#define WARN_ON_KIND WARN_ON
#endif

static DEFINE_STATIC_KEY_FALSE(own_key);
static DEFINE_STATIC_KEY_TRUE_RO(own_fixed_key);
DEFINE_STATIC_KEY_FALSE(shared_key);
int (*volatile indirect)(int);

static int first_way(int x)
{
	return x + 11;
}

int second_way(int x);
DEFINE_STATIC_CALL(own_call, first_way);
DEFINE_STATIC_CALL_NULL(maybe_call, second_way);

noinline int a_warn(int x)
{
	WARN_ON_KIND(x < 0);
	WARN_ON_ONCE(x == 3);
	WARN(x == 5, WARN_TEXT, x);
	BUG_ON(x == 77);
	return x + A;
}

noinline int b_warn(int x)
{
	if (WARN_ON(x == 9))
		return -EINVAL;
	WARN_ONCE(x == 8, "b_warn %d\n", x);
	return x * 2 + B;
}

noinline int a_fault(int *from, u64 *value)
{
	int x = A;

	if (!user_access_begin(from, sizeof(x)))
		return -EPERM;
	unsafe_get_user(x, (int __user *)from, Efault);
	user_access_end();
	if (rdmsrl_safe(0x10 + A, value) || wrmsrl_safe(0x11, *value))
		return -EIO;
	return x + __copy_from_user(value, (void __user *)from, 8);
Efault:
	user_access_end();
	return -EFAULT;
}

noinline unsigned long b_fault(unsigned long *p)
{
	unsigned long value = 0;

	__get_kernel_nofault(&value, p, unsigned long, Efault);
	return value + load_unaligned_zeropad(p) + B;
Efault:
	return 1;
}

noinline u64 a_alternative(void *page)
{
	clear_page(page);
	if (static_cpu_has(X86_FEATURE_HYPERVISOR))
		return hweight64(rdtsc_ordered()) + A;
	alternative("nop; nop", "", X86_FEATURE_ALWAYS);
	return A;
}

noinline int b_alternative(int x)
{
	asm volatile(ALTERNATIVE_3("nop", "inc %0", X86_FEATURE_FPU, "", X86_FEATURE_APIC,
				   "lea 5(%0), %0", X86_FEATURE_TSC) : "+r" (x));
	if (boot_cpu_has(X86_FEATURE_PAT))
		prefetchw((void *)(long)x);
	return x + B;
}

noinline unsigned long a_paravirt(void)
{
	unsigned long flags;

	local_irq_save(flags);
	flush_tlb_local();
	local_irq_restore(flags);
	return __read_cr3() + A;
}

noinline int b_lock(atomic_t *v, unsigned long *bits)
{
	atomic_inc(v);
	set_bit(3, bits);
	return atomic_cmpxchg(v, 3, 4 + B);
}

noinline int a_indirect(int x)
{
	return indirect(x + A) + 1;
}

noinline int b_indirect_tail(int x)
{
	return indirect(x + B);
}

noinline int a_keys(int x)
{
	if (static_branch_unlikely(&delayacct_key))
		x += 3;
	if (static_branch_likely(&own_key))
		x *= 7;
	if (static_branch_unlikely(&own_fixed_key))
		x -= 5;
	return x + A;
}

noinline int b_keys(int x)
{
	if (static_branch_unlikely(&bpf_stats_enabled_key))
		x += 3;
	if (static_branch_unlikely(&shared_key))
		x *= 7;
	return x + B;
}

noinline void a_trace(struct task_struct *task)
{
	trace_task_rename(task, A ? "one" : "two");
}

#ifdef MODULE
DECLARE_TRACE(own_event, TP_PROTO(int x), TP_ARGS(x));
DEFINE_TRACE(own_event, TP_PROTO(int x), TP_ARGS(x));

noinline int a_own_trace(int x)
{
	trace_own_event(x);
	return x + A;
}
#endif

noinline int b_debug(int x)
{
	pr_debug("b_debug %d\n", x);
	pr_debug_ratelimited("b_debug often %d\n", x);
	pr_err_once("b_debug once %d\n", x);
	return x + B;
}

noinline int a_static_call(int x)
{
	might_sleep();
	x += cond_resched() + static_call(own_call)(x);
	static_call_cond(maybe_call)(x);
	return x + paravirt_steal_clock(A);
}

noinline int b_static_call(int x)
{
	return static_call(own_call)(x + B);
}

noinline int a_injected(int x)
{
	return x - A;
}
ALLOW_ERROR_INJECTION(a_injected, ERRNO);

noinline int b_unprobed(int x)
{
	return x - B;
}
NOKPROBE_SYMBOL(b_unprobed);

SYSCALL_DEFINE1(a_special, int, x)
{
	return x + A + second_way(x);
}

static void __cold noinline report(int x)
{
	pr_err("report %d\n", x);
	dump_stack();
}

noinline int b_cold(int x)
{
	if (unlikely(x > 1000)) {
		report(x);
		WARN_ON(x > 2000);
	}
	if (static_branch_unlikely(&shared_key))
		report(x + 1);
	return x + B;
}
