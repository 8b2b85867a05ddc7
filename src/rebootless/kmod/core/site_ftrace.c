// SPDX-License-Identifier: GPL-2.0-only
/*
 * A function redirected by ftrace: each site has operations of its own, so that ftrace
 * calls the handler straight from a trampoline made for it, and the handler finds the
 * site without looking for it.
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include "core.h"

#ifdef CONFIG_DYNAMIC_FTRACE

/* What IBT kernels begin a function with: endbr64, or what they make of it. */
#define LANDING_PAD 4

/* Where a call of the site leads for the current task; NULL: to the function itself. */
static __always_inline void *rb_target(struct rb_site *site)
{
	/* pairs with smp_store_release() in pertask.c: now and then are read after it */
	unsigned long universe = smp_load_acquire(&rb_universe);
	bool other;

	if (unlikely(universe & RB_MOVING)) {
		other = !!test_bit(RB_TASK_BIT, (unsigned long *)&current_thread_info()->flags);
		if (other != !!(universe & RB_BASE))
			return READ_ONCE(site->then);
	}
	return READ_ONCE(site->now);
}

static void notrace redirect(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
			     struct rb_ftrace_regs *regs)
{
	struct rb_site *site = container_of(ops, struct rb_site, ops);
	void *target;

	/* rb_synchronize() waits for the end of this */
	preempt_disable_notrace();
	target = rb_target(site);
	if (target)
		rb_set_ip(regs, target);
	preempt_enable_notrace();
}

/* Where the function calls ftrace: at its entry, or behind the landing pad. */
static int check(struct rb_site *site)
{
	unsigned long places[] = { site->address, site->address + LANDING_PAD };
	unsigned int n;
	int error;

	for (n = 0; n < ARRAY_SIZE(places); n++) {
		error = ftrace_set_filter_ip(&site->ops, places[n], 0, 0);
		if (!error) {
			site->ip = places[n];
			return ftrace_set_filter_ip(&site->ops, places[n], 1, 0);
		}
		if (error != -EINVAL)
			return error;
	}
	return -EINVAL;
}

static void tell(struct rb_site *site, int error)
{
	int *enabled = rb_kernel_symbol("ftrace_enabled");

	if (error == -EBUSY && enabled && !READ_ONCE(*enabled))
		pr_err("%ps cannot be redirected: ftrace is off (kernel.ftrace_enabled is 0)\n",
		       (void *)site->address);
	else if (error == -EBUSY)
		pr_err("%ps cannot be redirected: another live patch holds it\n",
		       (void *)site->address);
	else
		pr_err("%ps cannot be redirected by ftrace (%d)\n", (void *)site->address, error);
}

static int install(struct rb_site *site)
{
	int error;

	site->ops.func = redirect;
	/* not permanent, kernel.ftrace_enabled=0 would take the patch away in silence */
	site->ops.flags = RB_FTRACE_REGS | RB_FTRACE_DIRECT | FTRACE_OPS_FL_IPMODIFY |
			  FTRACE_OPS_FL_PERMANENT;
	error = rb_fails() ? -ENOMEM : ftrace_set_filter_ip(&site->ops, site->ip, 0, 0);
	if (error) {
		tell(site, error);
		return error;
	}
	error = rb_fails() ? -ENOMEM : register_ftrace_function(&site->ops);
	if (error) {
		tell(site, error);
		ftrace_set_filter_ip(&site->ops, site->ip, 1, 0);
		/* it was in ftrace's list for a moment, which tracers go through */
		rb_synchronize();
	}
	return error;
}

/* ftrace returns when nobody is in the trampoline any more. */
static int remove(struct rb_site *site)
{
	int error = unregister_ftrace_function(&site->ops);

	if (error) {
		pr_err("%ps cannot be given back by ftrace (%d)\n", (void *)site->address, error);
		return error;
	}
	ftrace_set_filter_ip(&site->ops, site->ip, 1, 0);
	return 0;
}

const struct rb_redirect rb_redirect_ftrace = {
	.name = "ftrace",
	.conditional = true,
	.check = check,
	.install = install,
	.remove = remove,
};

#else

static int check(struct rb_site *site)
{
	return -EOPNOTSUPP;
}

const struct rb_redirect rb_redirect_ftrace = {
	.name = "ftrace",
	.conditional = true,
	.check = check,
};

#endif /* CONFIG_DYNAMIC_FTRACE */
