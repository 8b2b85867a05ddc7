// SPDX-License-Identifier: GPL-2.0
/*
 * Spoils the kernel's code, for tests that look for such: while it is loaded, `count` bytes behind
 * `offset` in the function `name` are turned over.
 */
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/vmalloc.h>

static char *name = "cmdline_proc_show";
module_param(name, charp, 0);
static uint offset = 16;
module_param(offset, uint, 0);
static uint count = 1;
module_param(count, uint, 0);

static u8 *alias;

static struct page *page_of(void *address)
{
	if ((unsigned long)address >= MODULES_VADDR)
		return vmalloc_to_page(address);
	return pfn_to_page(__pa_symbol(address) >> PAGE_SHIFT);
}

static void turn_over(void)
{
	uint i;

	for (i = 0; i < count; i++)
		alias[i] ^= 0xff;
}

/* A kprobe tells the address of a function that is not exported. */
static u8 *find(void)
{
	struct kprobe probe = { .symbol_name = name };
	u8 *address;

	if (register_kprobe(&probe))
		return NULL;
	address = (u8 *)probe.addr;
	unregister_kprobe(&probe);
	return address;
}

static int __init rl_poke_init(void)
{
	u8 *address = find();
	struct page *page;
	void *mapped;

	if (!address || offset_in_page(address + offset) + count > PAGE_SIZE)
		return -EINVAL;
	page = page_of(address + offset);
	mapped = vmap(&page, 1, VM_MAP, PAGE_KERNEL);
	if (!mapped)
		return -ENOMEM;
	alias = (u8 *)mapped + offset_in_page(address + offset);
	turn_over();
	return 0;
}

static void __exit rl_poke_exit(void)
{
	turn_over();
	vunmap((void *)((unsigned long)alias & PAGE_MASK));
}

module_init(rl_poke_init);
module_exit(rl_poke_exit);
MODULE_DESCRIPTION("Spoils code, for tests");
MODULE_LICENSE("GPL");
