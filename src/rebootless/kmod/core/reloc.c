// SPDX-License-Identifier: GPL-2.0-only
/*
 * The places of a patch that wait for addresses: of the kernel proper where its
 * loader does not know livepatch relocations, and of modules, which may come
 * after the patch.
 *
 * All addresses are found and found to fit before the first place is written, so
 * that a patch is relocated wholly or not at all.
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/elf.h>
#include <linux/memory.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <asm/sync_core.h>
#include <asm/text-patching.h>
#include "core.h"

#define SYMBOL_LEN	KSYM_NAME_LEN
#define OBJECT_LEN	MODULE_NAME_LEN

/*
 * The module's code and constants are read-only already: the kernel's own function
 * for its own code writes through a mapping of its own.
 */
RB_FUNCTION(text_poke);
static struct mutex *text_lock;

static int find_writer(void)
{
	struct mutex *lock = rb_kernel_symbol("text_mutex");

	if (text_lock)
		return 0;
	if (!lock || !rb_resolve(text_poke)) {
		pr_err("the kernel has no text_poke(), which relocations need\n");
		return -EOPNOTSUPP;
	}
	text_lock = lock;
	return 0;
}

/* What is to be written. */
struct value {
	u64 bits;
	u8 size;
};

static const char *type_name(u32 type)
{
	switch (type) {
	case R_X86_64_64:
		return "64";
	case R_X86_64_32:
		return "32";
	case R_X86_64_32S:
		return "32S";
	case R_X86_64_PC32:
	case R_X86_64_PLT32:
		return "PC32";
	case R_X86_64_PC64:
		return "PC64";
	default:
		return "unknown";
	}
}

/* -ERANGE: the address is out of the place's reach; -ENOEXEC: no type of ours. */
static int compute(const struct rebootless_reloc *reloc, unsigned long address,
		   struct value *value)
{
	u64 target = address + reloc->addend;
	s64 distance = target - reloc->place;

	switch (reloc->type) {
	case R_X86_64_64:
		*value = (struct value){ target, 8 };
		return 0;
	case R_X86_64_32:
		*value = (struct value){ target, 4 };
		return target == (u32)target ? 0 : -ERANGE;
	case R_X86_64_32S:
		*value = (struct value){ target, 4 };
		return (s64)target == (s32)target ? 0 : -ERANGE;
	case R_X86_64_PC32:
	case R_X86_64_PLT32:
		*value = (struct value){ distance, 4 };
		return distance == (s32)distance ? 0 : -ERANGE;
	case R_X86_64_PC64:
		*value = (struct value){ distance, 8 };
		return 0;
	default:
		return -ENOEXEC;
	}
}

static bool is_owned(const struct rebootless_reloc *reloc, const char *owner)
{
	size_t length = strlen(owner);

	return !strncmp(reloc->name, owner, length) && reloc->name[length] == '|';
}

/* Takes "OWNER|OBJECT.SYMBOL,POSITION" apart; no object has a dot in its name. */
static int parse(const char *name, char *object, const char **symbol,
		 size_t *length, unsigned long *position)
{
	const char *start = strchr(name, '|');
	const char *dot = start ? strchr(start, '.') : NULL;
	const char *comma = dot ? strrchr(dot, ',') : NULL;

	if (!comma || dot - start - 1 >= OBJECT_LEN || comma - dot - 1 >= SYMBOL_LEN)
		return -EINVAL;
	memcpy(object, start + 1, dot - start - 1);
	object[dot - start - 1] = '\0';
	*symbol = dot + 1;
	*length = comma - dot - 1;
	return kstrtoul(comma + 1, 10, position);
}

static int find(struct rb_patch *patch, const struct rebootless_reloc *reloc,
		unsigned long *address)
{
	char object[OBJECT_LEN];
	unsigned long position;
	const char *symbol;
	size_t length;
	char *text;
	int error;

	error = parse(reloc->name, object, &symbol, &length, &position);
	if (error) {
		pr_err("'%s': '%s' is no name of a relocation\n",
		       patch->klp->mod->name, reloc->name);
		return error;
	}
	text = rb_alloc(length + 1);
	if (!text)
		return -ENOMEM;
	memcpy(text, symbol, length);
	error = rb_find_symbol(object, text, position, address);
	if (error)
		pr_err("'%s': %s has no symbol '%s' at position %lu, which the patch refers to\n",
		       patch->klp->mod->name, object, text, position);
	rb_free(text);
	return error;
}

/* All that a place needs, or an error that is told in the log. */
static int settle(struct rb_patch *patch, const struct rebootless_reloc *reloc,
		  unsigned long address, struct value *value)
{
	int error = compute(reloc, address, value);
	size_t offset;

	/* What comes from a file is believed only within the patch's own module. */
	if (!error && !(within_module(reloc->place, patch->klp->mod) &&
			within_module(reloc->place + value->size - 1, patch->klp->mod)))
		error = -EINVAL;
	if (!error)
		return 0;
	offset = strcspn(reloc->name, "|") + 1;
	pr_err("'%s': a relocation (type %s) against '%s' at %pS %s\n",
	       patch->klp->mod->name, type_name(reloc->type), reloc->name + offset,
	       (void *)reloc->place,
	       error == -ERANGE ? "does not reach it" :
	       error == -ENOEXEC ? "is of no known type" : "is out of the patch");
	return error;
}

static int settle_all(struct rb_patch *patch, const char *owner, struct value *values)
{
	const struct rebootless_reloc *reloc, *last = NULL;
	unsigned long address = 0;
	int error;

	for (reloc = patch->relocs; reloc->place; reloc++) {
		if (!is_owned(reloc, owner))
			continue;
		/* Finding is slow; what one unit refers to by one name has one string. */
		if (!last || last->name != reloc->name) {
			error = find(patch, reloc, &address);
			if (error)
				return error;
			last = reloc;
		}
		error = settle(patch, reloc, address, values++);
		if (error)
			return error;
	}
	return 0;
}

/* As the kernel does after text_poke(), by a function that has had several names. */
static void see_new_code(void *unused)
{
	sync_core();
}

static void write_all(struct rb_patch *patch, const char *owner, const struct value *values)
{
	const struct rebootless_reloc *reloc;

	mutex_lock(text_lock);
	for (reloc = patch->relocs; reloc->place; reloc++) {
		if (!is_owned(reloc, owner))
			continue;
		/* The machine is little-endian: the low bytes come first. */
		rb_call(text_poke)((void *)reloc->place, &values->bits, values->size);
		values++;
	}
	on_each_cpu(see_new_code, NULL, 1);
	mutex_unlock(text_lock);
}

/*
 * Writes all places of the patch that wait for `owner`, "vmlinux" or a module. Sleeps.
 * Error, told in the log: none has been written.
 */
int rb_relocate(struct rb_patch *patch, const char *owner)
{
	const struct rebootless_reloc *reloc;
	struct value *values;
	size_t count = 0;
	int error;

	for (reloc = patch->relocs; reloc && reloc->place; reloc++)
		count += is_owned(reloc, owner);
	if (!count)
		return 0;
	error = find_writer();
	if (error)
		return error;
	values = rb_alloc(array_size(count, sizeof(*values)));
	if (!values)
		return -ENOMEM;
	error = settle_all(patch, owner, values);
	if (!error)
		write_all(patch, owner, values);
	rb_free(values);
	return error;
}
