// SPDX-License-Identifier: GPL-2.0
/* A bad patch: it works, and the kernel warns whenever its function runs. */
#include <linux/seq_file.h>

#include "rl_common.h"

static int rl_cmdline_proc_show(struct seq_file *m, void *v)
{
	WARN_ON(1);
	seq_puts(m, "rebootless warns\n");
	return 0;
}

RL_LIVEPATCH(NULL, "cmdline_proc_show", rl_cmdline_proc_show, false);
