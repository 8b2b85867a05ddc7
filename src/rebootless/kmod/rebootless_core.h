/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a patch module and the core module rebootless_core say to each other.
 *
 * A patch module describes itself with mainline's struct klp_patch. Loaded with
 * engine=livepatch (or no engine) it goes to the kernel's livepatch core, else it
 * finds rebootless_enable_patch() by name, so that one module serves every engine
 * and loads where the core is not.
 */
#ifndef _REBOOTLESS_CORE_H
#define _REBOOTLESS_CORE_H

#include <linux/types.h>
#include <rebootless_klp.h>

#define REBOOTLESS_CORE_ABI 2

/*
 * A place in the patch module that waits for an address: of OBJECT.SYMBOL, the
 * POSITIONth of that name (0: the only one), once the object OWNER is there.
 */
struct rebootless_reloc {
	unsigned long place;	/* 0 ends the list */
	const char *name;	/* "OWNER|OBJECT.SYMBOL,POSITION" */
	u32 type;		/* R_X86_64_* */
	u32 reserved;
	s64 addend;
};

/*
 * How a function begins in the shipped kernel, and which bits of that no kernel changes
 * by itself. Longer than a landing pad and a jump behind it.
 */
#define REBOOTLESS_ENTRY 16

struct rebootless_entry {
	u8 code[REBOOTLESS_ENTRY];
	u8 mask[REBOOTLESS_ENTRY];	/* 0: not known, or changed by the kernel */
};

/* What the core does for the code of patches, in the terms of livepatch. */
struct rebootless_services {
	struct klp_state *(*prev_state)(unsigned long id);
	/* NULL where the kernel has these itself. */
	void *(*shadow_get)(void *obj, unsigned long id);
	void *(*shadow_alloc)(void *obj, unsigned long id, size_t size,
			      gfp_t gfp, klp_shadow_ctor_t ctor, void *data);
	void *(*shadow_get_or_alloc)(void *obj, unsigned long id, size_t size,
				     gfp_t gfp, klp_shadow_ctor_t ctor,
				     void *data);
	void (*shadow_free)(void *obj, unsigned long id,
			    klp_shadow_dtor_t dtor);
	void (*shadow_free_all)(unsigned long id, klp_shadow_dtor_t dtor);
};

struct rebootless_patch {
	unsigned int abi;	/* REBOOTLESS_CORE_ABI */
	const char *engine;	/* "atomic" or "per-task" */
	struct klp_patch *patch;
	const struct rebootless_reloc *relocs;
	/* Of each function of each object, in order; NULL where none is known. */
	const struct rebootless_entry *entries;
	/* Set by the core before any code of the patch runs. */
	const struct rebootless_services **services;
	/* Called when the relocations of vmlinux are applied; may be NULL. */
	void (*relocated)(void);
};

/*
 * Puts a patch in force, called from its module's init. Returns 0 once the
 * transition has begun (it may be over already), or an error and nothing has
 * changed. The description itself is not kept.
 */
int rebootless_enable_patch(const struct rebootless_patch *patch);

/*
 * Makes the transition of mainline's livepatch that goes on quick, if there is one
 * and this kernel's can be driven. A patch asks for it right after klp_enable_patch(),
 * which is sooner than any process could.
 */
void rebootless_drive_livepatch(void);

#endif /* _REBOOTLESS_CORE_H */
