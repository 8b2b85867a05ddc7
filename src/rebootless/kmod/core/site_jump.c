// SPDX-License-Identifier: GPL-2.0-only
/*
 * A function redirected by a jump over its first bytes, where there is no ftrace.
 *
 *	without			with
 *	  [endbr64]		  [endbr64]
 *	  original (5)	<->	  jmp rel32 (5)
 *	  ...			  ...		not run: all of the function is replaced
 *
 * The bytes are only exchanged while everything stands still and nobody is in the
 * function, so that no CPU can be between them; through a second mapping of the page,
 * which is there for the time around the stop. A site is only made where they are what
 * was shipped, as far as the patch tells; and they are exchanged only if they are what
 * they were then, or what was written last: somebody else's change (a kprobe) is never
 * overwritten.
 *
 * A function that is called by a non-maskable interrupt may be called even then; the
 * eight bytes around are written at once where they do not cross a cache line.
 */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/jump_label.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/static_call.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/alternative.h>

#include "core.h"

#define JUMP		5
#define OPCODE_JUMP	0xe9
#define OPCODE_TRAP	0xcc

RB_FUNCTION(__module_address);
#ifdef CONFIG_KPROBES
RB_FUNCTION(get_kprobe);
#endif
/* These are asked of the first and of the last byte. */
#ifdef CONFIG_DYNAMIC_FTRACE
RB_FUNCTION(ftrace_text_reserved);
#endif
RB_FUNCTION(jump_label_text_reserved);
RB_FUNCTION(static_call_text_reserved);
RB_FUNCTION(alternatives_text_reserved);

/* How long what an indirect call may land on is; 0: the function has none. */
static unsigned long landing_pad(unsigned long address)
{
	static const u8 pads[][4] = {
		{ 0xf3, 0x0f, 0x1e, 0xfa },	/* endbr64 */
		{ 0x66, 0x0f, 0x1f, 0x00 },	/* what sealed functions have in its place */
		{ 0x0f, 0x1f, 0x40, 0xd6 },
		{ 0xd6, 0x40, 0x1f, 0x0f },
	};
	u8 found[4];
	unsigned int n;

	if (copy_from_kernel_nofault(found, (void *)address, sizeof(found)))
		return 0;
	for (n = 0; n < ARRAY_SIZE(pads); n++) {
		if (!memcmp(found, pads[n], sizeof(found)))
			return sizeof(found);
	}
	return 0;
}

/*
 * Where a kernel that runs on one CPU, and may get more, has taken lock prefixes away.
 * Modules that go leave the list of them with text_mutex held.
 */
static bool lock_prefixed(void *start, void *end)
{
	struct mutex *lock = rb_kernel_symbol("text_mutex");
	bool is;

	if (!rb_resolve(alternatives_text_reserved))
		return false;
	if (lock)	/* not found without CONFIG_KALLSYMS_ALL */
		mutex_lock(lock);
	is = rb_call(alternatives_text_reserved)(start, end);
	if (lock)
		mutex_unlock(lock);
	return is;
}

static bool reserved(unsigned long first, unsigned long last)
{
	void *start = (void *)first, *end = (void *)last;

	if (rb_resolve(jump_label_text_reserved) &&
	    rb_call(jump_label_text_reserved)(start, end))
		return true;
	if (rb_resolve(static_call_text_reserved) &&
	    rb_call(static_call_text_reserved)(start, end))
		return true;
#ifdef CONFIG_DYNAMIC_FTRACE
	if (rb_resolve(ftrace_text_reserved) &&
	    rb_call(ftrace_text_reserved)(start, end))
		return true;
#endif
	return lock_prefixed(start, end);
}

#ifdef CONFIG_KPROBES
static bool can_see_probes;	/* known since the site was checked */
#endif

/* Also called with everything stopped. */
static bool probed(unsigned long first, unsigned long last)
{
	bool found = false;
#ifdef CONFIG_KPROBES
	unsigned long address;

	if (!can_see_probes)
		return false;
	preempt_disable();
	for (address = first; address <= last && !found; address++)
		found = rb_call(get_kprobe)((void *)address);
	preempt_enable();
#endif
	return found;
}

static bool same_object(unsigned long address, unsigned long other)
{
	bool same;

	if (!rb_resolve(__module_address))
		return true;
	preempt_disable();
	same = rb_call(__module_address)(address) == rb_call(__module_address)(other);
	preempt_enable();
	return same;
}

/* Somebody's trap, or a jump that leads out of the kernel or module: not a compiler's. */
static bool redirected(unsigned long ip, const u8 *code)
{
	s32 distance;

	if (code[0] == OPCODE_TRAP)
		return true;
	memcpy(&distance, code + 1, sizeof(distance));
	return code[0] == OPCODE_JUMP && !same_object(ip, ip + JUMP + distance);
}

/* Up to the end of the jump; what is behind it is not run as long as the jump is there. */
static bool as_shipped(const struct rb_site *site)
{
	unsigned long n, count = site->ip + JUMP - site->address;
	u8 found[REBOOTLESS_ENTRY];

	if (copy_from_kernel_nofault(found, (void *)site->address, sizeof(found)))
		return false;
	for (n = 0; n < count; n++) {
		if ((found[n] ^ site->shipped.code[n]) & site->shipped.mask[n]) {
			pr_err("%ps does not begin as it was shipped: %*ph, not %*ph\n",
			       (void *)site->address, (int)count, found, (int)count,
			       site->shipped.code);
			return false;
		}
	}
	return true;
}

static int check(struct rb_site *site)
{
	unsigned long last;
	u8 code[JUMP];

#ifdef CONFIG_KPROBES
	can_see_probes = rb_resolve(get_kprobe);
#endif
	site->ip = site->address + landing_pad(site->address);
	last = site->ip + JUMP - 1;
	if (last >= site->address + site->size) {
		pr_err("%ps is too short for a jump\n", (void *)site->address);
		return -ENOSPC;
	}
	if (copy_from_kernel_nofault(code, (void *)site->ip, sizeof(code)))
		return -EFAULT;
	if (probed(site->address, last)) {
		pr_err("%ps has a kprobe at its entry\n", (void *)site->address);
		return -EBUSY;
	}
	if (redirected(site->ip, code)) {
		pr_err("%ps is redirected by somebody else\n", (void *)site->address);
		return -EBUSY;
	}
	if (reserved(site->address, last)) {
		pr_err("%ps has code at its entry that the kernel changes itself\n",
		       (void *)site->address);
		return -EBUSY;
	}
	return as_shipped(site) ? 0 : -EBUSY;
}

static int install(struct rb_site *site)
{
	int error = check(site);

	if (error)
		return error;
	memcpy(site->original, (void *)site->ip, JUMP);
	memcpy(site->written, site->original, JUMP);
	return 0;
}

/*
 * Whether what is there is what we left there, or found there first. A kprobe has its
 * copy of the bytes before it writes its trap, so what is there does not tell of one that
 * came since prepare().
 */
static bool ready(struct rb_site *site)
{
	return !memcmp((void *)site->ip, site->written, JUMP) &&
	       !probed(site->ip, site->ip + JUMP - 1);
}

static int remove(struct rb_site *site)
{
	if (memcmp((void *)site->ip, site->original, JUMP)) {
		pr_err("%ps does not have its own code at its entry\n", (void *)site->address);
		return -EBUSY;
	}
	return as_shipped(site) ? 0 : -EBUSY;
}

static struct page *page_of(unsigned long address)
{
	if (address >= MODULES_VADDR && address < MODULES_END)
		return vmalloc_to_page((void *)address);
	return pfn_to_page(__pa(address) >> PAGE_SHIFT);
}

static int prepare(struct rb_site *site)
{
	unsigned long first = site->ip & PAGE_MASK;
	struct page *pages[2] = { page_of(site->ip), page_of(site->ip + JUMP - 1) };
	unsigned int count = ((site->ip + JUMP - 1) & PAGE_MASK) == first ? 1 : 2;
	void *base;

	if (!ready(site)) {
		pr_err_ratelimited("%ps has been changed at its entry by somebody else (a kprobe?)\n",
				   (void *)site->address);
		return -EBUSY;
	}
	if (!pages[0] || !pages[1])
		return -EFAULT;
	base = rb_fails() ? NULL : vmap(pages, count, VM_MAP, PAGE_KERNEL);
	if (!base)
		return -ENOMEM;
	site->alias = base + (site->ip - first);
	return 0;
}

static void settle(struct rb_site *site)
{
	vunmap((void *)((unsigned long)site->alias & PAGE_MASK));
	site->alias = NULL;
}

static void switched(struct rb_site *site)
{
	s32 distance = (unsigned long)site->now - (site->ip + JUMP);
	u8 code[sizeof(u64)];
	u64 all;

	memcpy(code, site->original, JUMP);
	if (site->now) {
		code[0] = OPCODE_JUMP;
		memcpy(code + 1, &distance, sizeof(distance));
	}
	memcpy(site->written, code, JUMP);
	if ((site->ip & (SMP_CACHE_BYTES - 1)) + sizeof(u64) > SMP_CACHE_BYTES) {
		memcpy(site->alias, code, JUMP);
		return;
	}
	memcpy(code + JUMP, site->alias + JUMP, sizeof(code) - JUMP);
	memcpy(&all, code, sizeof(all));
	WRITE_ONCE(*(u64 *)site->alias, all);
}

const struct rb_redirect rb_redirect_jump = {
	.name = "jump",
	.check = check,
	.install = install,
	.remove = remove,
	.prepare = prepare,
	.ready = ready,
	.switched = switched,
	.settle = settle,
};
