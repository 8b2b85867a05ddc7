// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whose stack holds what: which code no task may be in for a transition to end, and
 * whether a task is in it.
 *
 * A stack is believed only where the kernel's own unwinder vouches for each frame,
 * as for mainline's livepatch: with ORC tables, or with frame pointers and no
 * interrupt among the frames.
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/kallsyms.h>
#include <linux/sched/task_stack.h>
#include <linux/sort.h>
#include <asm/unwind.h>

#include "core.h"

RB_FUNCTION(put_task_stack);
RB_FUNCTION(idle_task);

struct code {
	unsigned long start, end;	/* [start, end) */
};

/* Sorted, and none overlaps another. */
static struct codes {
	struct code *ranges;
	unsigned int count, room;
} left;

bool rb_stack_reliable(void)
{
	return IS_ENABLED(CONFIG_HAVE_RELIABLE_STACKTRACE);
}

static int add(struct codes *codes, unsigned long start, unsigned long end)
{
	unsigned int room = 2 * codes->room + 16;
	struct code *more;

	if (start >= end)
		return 0;
	if (codes->count == codes->room) {
		more = rb_alloc(room * sizeof(*more));
		if (!more)
			return -ENOMEM;
		if (codes->count)
			memcpy(more, codes->ranges, codes->count * sizeof(*more));
		rb_free(codes->ranges);
		codes->ranges = more;
		codes->room = room;
	}
	codes->ranges[codes->count++] = (struct code){ start, end };
	return 0;
}

/* The compiler keeps a function's unlikely parts elsewhere, as NAME.cold. */
static int add_cold(struct codes *codes, struct rb_site *site)
{
	struct rb_func *func = list_first_entry_or_null(&site->funcs, struct rb_func, stack);
	unsigned long position = 0, address;
	const char *object;
	char *name;
	int error;

	if (!func)
		return 0;
	object = func->object->klp->name ?: "vmlinux";
	name = rb_alloc(KSYM_NAME_LEN);
	if (!name)
		return -ENOMEM;
	snprintf(name, KSYM_NAME_LEN, "%s.cold", func->klp->old_name);
	error = rb_find_symbol(object, name, 0, &address);
	if (error == -EINVAL) {		/* several functions of the name: all of their parts */
		position = 1;
		error = rb_find_symbol(object, name, position, &address);
	}
	while (!error) {
		error = add(codes, address, address + rb_symbol_size(address));
		if (error || !position)
			break;
		error = rb_find_symbol(object, name, ++position, &address);
	}
	rb_free(name);
	return error == -ENOMEM ? error : 0;
}

/*
 * All code of a patch's module, and one byte before it: a task on its way to the module's
 * very first function may be interrupted in the kernel's return thunk, with which the way
 * ends. What is on the stack then looks like a return address, of a call before it.
 */
static int add_module_text(struct codes *codes, const struct module *module)
{
	unsigned long start, end;

	rb_module_text(module, &start, &end);
	return add(codes, start - 1, end);
}

/*
 * A function of a patch stands for all code of its module: the function may have
 * jumped to a helper of it and be on no stack itself.
 */
static int add_module(struct codes *codes, struct rb_site *site, const void *function)
{
	struct rb_func *func;

	list_for_each_entry(func, &site->funcs, stack) {
		if (func->klp->new_func == function)
			return add_module_text(codes, func->object->patch->klp->mod);
	}
	return -ENOENT;		/* no function of a patch of ours: cannot be */
}

/*
 * A task that was preempted on its way from a function's entry to where it leads has
 * decided already, and the stack does not tell how. So has one that was interrupted
 * there by the per-task engine, on a kernel without preemption as well.
 */
static int add_way(struct codes *codes, struct rb_site *site)
{
#ifdef CONFIG_DYNAMIC_FTRACE
	if (site->redirect == &rb_redirect_ftrace)
		return add(codes, site->ops.trampoline,
			   site->ops.trampoline + site->ops.trampoline_size);
#endif
	return 0;
}

static int add_common_way(struct codes *codes)
{
	unsigned long start, end;

	if (!IS_ENABLED(CONFIG_DYNAMIC_FTRACE))
		return 0;
	start = (unsigned long)rb_kernel_symbol("ftrace_caller");
	end = (unsigned long)rb_kernel_symbol("return_to_handler");
	if (!end)
		end = (unsigned long)rb_kernel_symbol("ftrace_regs_caller_end");
	return start ? add(codes, start, end) : 0;
}

static int add_site(struct codes *codes, struct rb_site *site, const void *function)
{
	int error = add_way(codes, site);

	if (error)
		return error;
	if (function)
		return add_module(codes, site, function);
	error = add(codes, site->address, site->address + site->size);
	return error ?: add_cold(codes, site);
}

static int by_start(const void *a, const void *b)
{
	const struct code *one = a, *other = b;

	return one->start < other->start ? -1 : one->start > other->start;
}

static void merge(struct codes *codes)
{
	struct code *ranges = codes->ranges;
	unsigned int n, last = 0;

	if (!codes->count)
		return;
	sort(ranges, codes->count, sizeof(*ranges), by_start, NULL);
	for (n = 1; n < codes->count; n++) {
		if (ranges[n].start <= ranges[last].end)
			ranges[last].end = max(ranges[last].end, ranges[n].end);
		else
			ranges[++last] = ranges[n];
	}
	codes->count = last + 1;
}

void rb_code_forget(void)
{
	rb_free(left.ranges);
	left = (struct codes){ };
}

/* Patches that go: their modules do, too, and functions of theirs may be covered by others. */
static int add_patches(struct codes *codes, struct rb_transition *t)
{
	struct rb_patch *patch;
	int error = 0;

	list_for_each_entry(patch, &rb_patches, list) {
		if (error)
			break;
		if (patch->now == patch->then || patch->now == t->reverse)
			continue;
		error = add_module_text(codes, patch->module);
	}
	return error;
}

/*
 * A patch that replaces others changes sites that it does not use itself, and a module
 * that comes meanwhile brings such.
 */
static int refuse_site(struct rb_transition *t, struct rb_site *site)
{
	pr_err("'%s': %ps is redirected by a %s, which engine %s cannot take off\n",
	       t->patch->module->name, (void *)site->address, site->redirect->name,
	       t->patch->engine->name);
	return -EBUSY;
}

int rb_code_collect(struct rb_transition *t)
{
	struct codes codes = { };
	struct rb_site *site;
	int error;

	if (!rb_resolve(put_task_stack)) {
		pr_err("the kernel's put_task_stack() is not found\n");
		return -EOPNOTSUPP;
	}
	error = add_common_way(&codes);
	if (!error)
		error = add_patches(&codes, t);
	list_for_each_entry(site, &rb_sites, list) {
		if (error)
			break;
		if (site->now == site->then)
			continue;
		if (t->patch->engine->conditional && !site->redirect->conditional)
			error = refuse_site(t, site);
		else
			error = add_site(&codes, site, t->reverse ? site->then : site->now);
	}
	if (error) {
		rb_free(codes.ranges);
		return error;
	}
	merge(&codes);
	rb_code_forget();
	left = codes;
	return 0;
}

static bool is_left(unsigned long address)
{
	unsigned int low = 0, high = left.count, middle;

	while (low < high) {
		middle = (low + high) / 2;
		if (address < left.ranges[middle].start)
			high = middle;
		else if (address >= left.ranges[middle].end)
			low = middle + 1;
		else
			return true;
	}
	return false;
}

static int check(struct task_struct *task, unsigned long *where)
{
	struct unwind_state state;
	struct pt_regs *regs = NULL;
	unsigned long address;

	unwind_start(&state, task, NULL, NULL);
	while (!unwind_done(&state) && !unwind_error(&state)) {
		regs = unwind_get_entry_regs(&state, NULL);
		if (regs && user_mode(regs))
			return 0;
		if (regs && IS_ENABLED(CONFIG_FRAME_POINTER))
			return -EINVAL;
		address = unwind_get_return_address(&state);
		if (!address)
			return -EINVAL;
		/*
		 * A call that does not return can be the last thing in a function, and the
		 * return address then is the next one's. But a return address can also be the
		 * entry of a function that is about to be jumped to, by a return. Only what an
		 * interrupt saved is the address of the instruction itself.
		 */
		if (is_left(address) || (!regs && is_left(address - 1))) {
			if (where)
				*where = is_left(address) ? address : address - 1;
			return -EBUSY;
		}
		unwind_next_frame(&state);
	}
	/*
	 * A stack ends in user space or in the first call of a thread. The tables also call
	 * it the end where an interrupt met the first instruction of a retpoline, though the
	 * frames of whoever called go on below.
	 */
	return unwind_error(&state) || regs ? -EINVAL : 0;
}

int rb_stack_check(struct task_struct *task, unsigned long *where)
{
	int error;

	if (where)
		*where = 0;
	if (!try_get_task_stack(task))
		return 0;		/* dead, and never runs again */
	error = check(task, where);
	rb_call(put_task_stack)(task);
	return error;
}

struct task_struct *rb_idle(unsigned int cpu)
{
	static bool found;

	if (!found)
		found = rb_resolve(idle_task);
	return found ? rb_call(idle_task)(cpu) : NULL;
}

void rb_held_add(struct rb_held *held, struct task_struct *task, unsigned long where)
{
	static char symbol[KSYM_SYMBOL_LEN];	/* too large for a stack; under rb_mutex */
	struct rb_holder *who;

	held->left++;
	if (held->count == RB_HELD_MAX)
		return;
	who = &held->who[held->count++];
	who->pid = task_tgid_nr(task);
	who->tid = task_pid_nr(task);
	strscpy(who->comm, task->comm, sizeof(who->comm));
	who->function[0] = '\0';
	if (where) {
		sprint_symbol_no_offset(symbol, where);
		symbol[strcspn(symbol, " ")] = '\0';	/* the module's name follows it */
		strscpy(who->function, symbol, sizeof(who->function));
	}
}
