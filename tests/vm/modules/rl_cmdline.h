/* SPDX-License-Identifier: GPL-2.0 */
/* /proc/cmdline shows MARKER instead of the kernel's command line. */
#include <linux/seq_file.h>

#include "rl_common.h"

static int rl_cmdline_proc_show(struct seq_file *m, void *v)
{
	seq_puts(m, MARKER "\n");
	return 0;
}

RL_LIVEPATCH(NULL, "cmdline_proc_show", rl_cmdline_proc_show, REPLACES);
