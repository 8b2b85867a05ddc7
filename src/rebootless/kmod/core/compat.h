/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between kernels and no CONFIG_ symbol or macro tells.
 */
#ifndef _RB_COMPAT_H
#define _RB_COMPAT_H

#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/static_call.h>
#include <linux/version.h>

/*
 * The one place where a version is asked for. checkpatch warns of it: code within the
 * kernel's own tree has no use for it.
 */
#define RB_SINCE(major, minor) (LINUX_VERSION_CODE >= KERNEL_VERSION(major, minor, 0))

/* A module's code, without that of its init: [start, end). */
static inline void rb_module_text(const struct module *module, unsigned long *start,
				  unsigned long *end)
{
/* "module: replace module_layout with module_memory" */
#if RB_SINCE(6, 4)
	*start = (unsigned long)module->mem[MOD_TEXT].base;
	*end = *start + module->mem[MOD_TEXT].size;
#else
	*start = (unsigned long)module->core_layout.base;
	*end = *start + module->core_layout.text_size;
#endif
}

/* Whether a CPU still works with the task's stack. */
static inline bool rb_on_cpu(struct task_struct *task)
{
#ifdef CONFIG_SMP
	/* pairs with the scheduler's release when it has switched away from the task */
	return smp_load_acquire(&task->on_cpu);
#else
	return task == current;
#endif
}

/* "sched: Change task_struct::state" */
#if RB_SINCE(5, 14)
#define rb_task_state(task) READ_ONCE((task)->__state)
#else
#define rb_task_state(task) READ_ONCE((task)->state)
#endif

/* "sched,rcu: Rework try_invoke_on_locked_down_task()" made it task_call_func() */
#if RB_SINCE(5, 16)
#define RB_TASK_CALL_FUNC
#endif

/* "task_work: add helper for more targeted task_work canceling" */
#if RB_SINCE(5, 13)
#define RB_TASK_WORK_MATCH
#endif

/* Not declared by all kernels; those before 6.2 may not have it. */
int kallsyms_on_each_match_symbol(int (*fn)(void *data, unsigned long address),
				  const char *name, void *data);

/* Gone since kernels no longer change their lock prefixes for a single CPU. */
#ifdef CONFIG_SMP
int alternatives_text_reserved(void *start, void *end);
#endif

/* "kallsyms: Delete an unused parameter related to {module_}kallsyms_on_each_symbol()" */
#if !RB_SINCE(6, 4) && IS_ENABLED(CONFIG_LIVEPATCH)
#define RB_EACH_SYMBOL
#endif

/*
 * "kallsyms: refactor {,module_}kallsyms_on_each_symbol": before, the search went on
 * through all modules, and left it to the caller to hold module_mutex, which is found by
 * name: not all of them export it.
 */
#if !RB_SINCE(5, 12)
#define RB_MODULE_MUTEX "module_mutex"
#endif

#ifdef CONFIG_DYNAMIC_FTRACE
/* "ftrace: Have the callbacks receive a struct ftrace_regs instead of pt_regs" */
#if RB_SINCE(5, 11)
#define rb_ftrace_regs ftrace_regs
#else
#define rb_ftrace_regs pt_regs
#endif

/* Where the function that is being entered goes on. */
static __always_inline void rb_set_ip(struct rb_ftrace_regs *regs, void *ip)
{
#if defined(ftrace_regs_set_instruction_pointer)
	ftrace_regs_set_instruction_pointer(regs, (unsigned long)ip);
#elif defined(ftrace_instruction_pointer_set)
	ftrace_instruction_pointer_set(regs, (unsigned long)ip);
#elif RB_SINCE(5, 11)
	ftrace_get_regs(regs)->ip = (unsigned long)ip;
#else
	regs->ip = (unsigned long)ip;
#endif
}

/* Where the entry of a function can be left without all registers being saved. */
#if defined(CONFIG_HAVE_DYNAMIC_FTRACE_WITH_ARGS) && \
	(defined(ftrace_regs_set_instruction_pointer) || defined(ftrace_instruction_pointer_set))
#define RB_FTRACE_REGS 0
#else
#define RB_FTRACE_REGS FTRACE_OPS_FL_SAVE_REGS
#endif

/*
 * "ftrace: Have the callbacks be protected from recursion" turned the flag's sense:
 * a handler that says nothing is called directly since then, with it before.
 */
#if RB_SINCE(5, 11)
#define RB_FTRACE_DIRECT 0
#else
#define RB_FTRACE_DIRECT FTRACE_OPS_FL_RECURSION_SAFE
#endif
#endif /* CONFIG_DYNAMIC_FTRACE */

/*
 * A function of the kernel that is declared in a header and not exported:
 *
 *	RB_FUNCTION(idle_task);			in a file
 *	if (!rb_resolve(idle_task))		once, before the first call; false: not there
 *	task = rb_call(idle_task)(cpu);
 *
 * A kernel with IBT takes the landing pads of unexported functions away: an indirect
 * call would be a fault there, so the call is made a direct one. (checkpatch takes the
 * declaration for a value that lacks parentheses.)
 */
#ifdef CONFIG_X86_KERNEL_IBT
#define RB_FUNCTION(function) DEFINE_STATIC_CALL_RET0(rb_##function, function)
#define rb_assign(function, address) \
	static_call_update(rb_##function, (typeof(&function))(address))
#define rb_call(function) static_call(rb_##function)
#else
#define RB_FUNCTION(function) static typeof(&function) rb_##function
#define rb_assign(function, address) (rb_##function = (typeof(&function))(address))
#define rb_call(function) rb_##function
#endif

#define rb_resolve(function) ({							\
	void *rb_found = rb_kernel_symbol(#function);				\
										\
	if (rb_found)								\
		rb_assign(function, rb_found);					\
	rb_found != NULL;							\
})

#endif /* _RB_COMPAT_H */
