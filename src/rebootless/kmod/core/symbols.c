// SPDX-License-Identifier: GPL-2.0-only
/*
 * Addresses by name and position.
 *
 * The kernel's own search by name is not exported. A kprobe finds it; a kernel
 * without kprobes is told its address by whoever loads this module.
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>

#include "core.h"

static unsigned long kallsyms;
module_param(kallsyms, ulong, 0400);
MODULE_PARM_DESC(kallsyms, "where kallsyms_lookup_name() is; needed without kprobes only");

RB_FUNCTION(kallsyms_lookup_name);
RB_FUNCTION(kallsyms_lookup_size_offset);
RB_FUNCTION(kallsyms_on_each_match_symbol);
RB_FUNCTION(find_module);

static bool has_matches;

#ifdef RB_EACH_SYMBOL
RB_FUNCTION(kallsyms_on_each_symbol);
static bool has_each;
static struct mutex *modules;	/* to be held meanwhile; NULL: nothing */
#endif

void *rb_kernel_symbol(const char *name)
{
	return (void *)rb_call(kallsyms_lookup_name)(name);
}

struct search {
	const char *name;
	unsigned long position;
	unsigned long found;	/* how many */
	unsigned long address;	/* of the one at `position`, or of the first */
};

/* Returns nonzero at the end of the search. */
static int found(void *data, unsigned long address)
{
	struct search *search = data;

	search->found++;
	if (search->found == max(search->position, 1UL))
		search->address = address;
	return search->found == max(search->position, 2UL);
}

#ifdef RB_EACH_SYMBOL
static int compare(void *data, const char *name, struct module *module, unsigned long address)
{
	struct search *search = data;

	return !module && !strcmp(name, search->name) ? found(search, address) : 0;
}
#endif

/* Positions in the kernel proper count by address. */
static int search_kernel(struct search *search)
{
	if (has_matches) {
		rb_call(kallsyms_on_each_match_symbol)(found, search->name, search);
		return 0;
	}
#ifdef RB_EACH_SYMBOL
	if (has_each) {
		if (modules)
			mutex_lock(modules);
		rb_call(kallsyms_on_each_symbol)(compare, search);
		if (modules)
			mutex_unlock(modules);
		return 0;
	}
#endif
	/* That the name is the only one is taken from the patch, which was made for this build. */
	if (search->position > 1) {
		pr_err("this kernel does not tell functions of one name apart ('%s')\n",
		       search->name);
		return -EOPNOTSUPP;
	}
	search->address = rb_call(kallsyms_lookup_name)(search->name);
	search->found = !!search->address;
	return 0;
}

/* Called with preemption off. */
struct module *rb_module(const char *name)
{
	return rb_call(find_module)(name);
}

/* Positions in a module count in the order of its symbol table. */
static int search_module(const char *name, struct search *search)
{
	struct mod_kallsyms *symbols;
	struct module *module;
	const Elf_Sym *symbol;
	unsigned int n;

	/* the table of a module that is being loaded is exchanged; RCU keeps the old one */
	preempt_disable();
	module = rb_module(name);
	symbols = module ? rcu_dereference_sched(module->kallsyms) : NULL;
	for (n = 0; symbols && n < symbols->num_symtab; n++) {
		symbol = &symbols->symtab[n];
		if (symbol->st_shndx == SHN_UNDEF)
			continue;
		if (strcmp(symbols->strtab + symbol->st_name, search->name))
			continue;
		if (found(search, symbol->st_value))
			break;
	}
	preempt_enable();
	return module ? 0 : -ENOENT;
}

int rb_find_symbol(const char *object, const char *name, unsigned long position,
		   unsigned long *address)
{
	struct search search = { .name = name, .position = position };
	int error;

	if (strcmp(object, "vmlinux"))
		error = search_module(object, &search);
	else
		error = search_kernel(&search);
	if (error)
		return error;
	if (!search.found)
		return -ENOENT;
	if (position ? search.found < position : search.found > 1)
		return -EINVAL;
	*address = search.address;
	return 0;
}

unsigned long rb_symbol_size(unsigned long address)
{
	unsigned long size = 0, offset;

	if (!rb_call(kallsyms_lookup_size_offset)(address, &size, &offset))
		return 0;
	return size;
}

static unsigned long probe(void)
{
#ifdef CONFIG_KPROBES
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long address;

	if (register_kprobe(&probe))
		return 0;
	address = (unsigned long)probe.addr;
	unregister_kprobe(&probe);
	return address;
#else
	return 0;
#endif
}

int rb_symbols_init(void)
{
	unsigned long address = kallsyms ?: probe();

	if (!address) {
		pr_err("kallsyms_lookup_name() is not found: load with kallsyms=ADDRESS\n");
		return -EOPNOTSUPP;
	}
	rb_assign(kallsyms_lookup_name, address);
	/* The probe may be behind a landing pad. */
	if (!rb_resolve(kallsyms_lookup_name) || !rb_resolve(kallsyms_lookup_size_offset) ||
	    !rb_resolve(find_module)) {
		pr_err("the kernel's own functions are not found by name\n");
		return -EOPNOTSUPP;
	}
	has_matches = rb_resolve(kallsyms_on_each_match_symbol);
#ifdef RB_EACH_SYMBOL
	has_each = rb_resolve(kallsyms_on_each_symbol);
#ifdef RB_MODULE_MUTEX
	modules = rb_kernel_symbol(RB_MODULE_MUTEX);
	has_each = has_each && modules;
#endif
#endif
	return 0;
}
