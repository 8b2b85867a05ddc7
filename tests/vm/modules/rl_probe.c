// SPDX-License-Identifier: GPL-2.0
/* Probes a function while it is loaded; the parameter `hits` counts. */
#include <linux/kprobes.h>
#include <linux/module.h>

static unsigned long hits;
module_param(hits, ulong, 0444);
static char *symbol = "";
module_param(symbol, charp, 0444);

static int rl_hit(struct kprobe *probe, struct pt_regs *regs)
{
	hits++;
	return 0;
}

static struct kprobe probe = { .pre_handler = rl_hit };

static int __init rl_init(void)
{
	probe.symbol_name = symbol;
	return register_kprobe(&probe);
}

static void __exit rl_exit(void)
{
	unregister_kprobe(&probe);
}

module_init(rl_init);
module_exit(rl_exit);
MODULE_DESCRIPTION("rebootless test: a kprobe");
MODULE_LICENSE("GPL");
