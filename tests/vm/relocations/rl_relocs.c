// SPDX-License-Identifier: GPL-2.0-only
/*
 * A patch with relocations of its own making, by the parameter `bad`: none is bad, one is of a
 * symbol that is not there, or does not reach, or is of no type, or has no name, or lies outside.
 * What became of the good ones is told in the log: a patch is relocated wholly or not at all.
 * Then shadow variables are tried, as patch code would use them.
 */
#include <linux/elf.h>
#include <linux/init_task.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <rebootless_core.h>

#undef klp_get_prev_state

static char *bad = "";
module_param(bad, charp, 0444);

static unsigned long first, last, outside;
static const unsigned long constant = 5;
static const struct rebootless_services *services;

static int new_show(struct seq_file *m, void *v)
{
	seq_puts(m, "rl_relocs\n");
	return 0;
}

#define RECORD(at, of, kind) { .place = (unsigned long)&(at), .name = of, .type = kind }

/* The third is the bad one. */
static struct rebootless_reloc relocs[] = {
	RECORD(first, "vmlinux|vmlinux.linux_proc_banner,0", R_X86_64_64),
	RECORD(constant, "vmlinux|vmlinux.linux_proc_banner,0", R_X86_64_64),
	RECORD(outside, "vmlinux|vmlinux.linux_banner,0", R_X86_64_64),
	RECORD(last, "vmlinux|vmlinux.linux_banner,0", R_X86_64_64),
	{ }
};

static struct klp_func funcs[] = {
	{ .old_name = "cmdline_proc_show", .new_func = new_show },
	{ }
};

static struct klp_object objects[] = {
	{ .funcs = funcs },
	{ }
};

static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects };

static void tell(const char *when)
{
	pr_info("rl_relocs: %s %d%d%d\n", when, first != 0,
		READ_ONCE(constant) != 5, last != 0);
}

static void relocated(void)
{
	const char *banner = (const char *)first;

	tell("relocated");
	pr_info("rl_relocs: %.16s\n", banner);
}

static int made(void *obj, void *shadow, void *data)
{
	*(unsigned long *)shadow = *(unsigned long *)data;
	return *(unsigned long *)data == 13 ? -EINVAL : 0;
}

static unsigned long freed;

static void gone(void *obj, void *shadow)
{
	freed += *(unsigned long *)shadow;
}

/* The line of the first that is not as it should be; 0: all are. */
static int try_shadows(void)
{
	unsigned long value = 13, *one, *two;

	if (services->shadow_alloc(&first, 1, 8, GFP_KERNEL, made, &value) ||
	    services->shadow_get(&first, 1))
		return __LINE__;
	value = 5;
	one = services->shadow_alloc(&first, 1, 8, GFP_KERNEL, made, &value);
	if (!one || *one != 5 || services->shadow_get(&first, 1) != one)
		return __LINE__;
	value = 7;
	two = services->shadow_get_or_alloc(&last, 1, 8, GFP_KERNEL, made, &value);
	if (!two || two == one || *two != 7)
		return __LINE__;
	if (services->shadow_get_or_alloc(&first, 1, 8, GFP_KERNEL, made, &value) != one ||
	    *one != 5 || services->shadow_get(&first, 2))
		return __LINE__;
	one = services->shadow_alloc(&first, 2, 4096, GFP_KERNEL, NULL, NULL);
	if (!one || memchr_inv(one, 0, 4096))
		return __LINE__;
	services->shadow_free(&first, 2, gone);
	services->shadow_free(&first, 3, gone);
	if (freed || services->shadow_get(&first, 2) || !services->shadow_get(&first, 1))
		return __LINE__;
	services->shadow_free_all(1, gone);
	if (freed != 12 || services->shadow_get(&first, 1) || services->shadow_get(&last, 1))
		return __LINE__;
	return 0;
}

static int __init rl_relocs_init(void)
{
	const struct rebootless_patch description = {
		.abi = REBOOTLESS_CORE_ABI,
		.engine = "atomic",
		.patch = &patch,
		.relocs = relocs,
		.services = &services,
		.relocated = relocated,
	};
	typeof(rebootless_enable_patch) *enable = symbol_get(rebootless_enable_patch);
	int error;

	if (!enable)
		return -ENOPKG;
	if (!strcmp(bad, "missing"))
		relocs[2].name = "vmlinux|vmlinux.rl_not_there,0";
	else if (!strcmp(bad, "position"))
		relocs[2].name = "vmlinux|vmlinux.linux_banner,7";
	else if (!strcmp(bad, "reach"))
		relocs[2].type = R_X86_64_32;
	else if (!strcmp(bad, "type"))
		relocs[2].type = 77;
	else if (!strcmp(bad, "name"))
		relocs[2].name = "vmlinux|linux_banner";
	else if (!strcmp(bad, "place"))
		relocs[2].place = (unsigned long)&init_task;
	error = enable(&description);
	symbol_put(rebootless_enable_patch);
	tell(error ? "refused" : "taken");
	if (!error)
		pr_info("rl_relocs: shadows %d\n", try_shadows());
	return error;
}

static void __exit rl_relocs_exit(void)
{
}

module_init(rl_relocs_init);
module_exit(rl_relocs_exit);
MODULE_LICENSE("GPL");
#if IS_ENABLED(CONFIG_LIVEPATCH)
MODULE_INFO(livepatch, "Y");
#endif
