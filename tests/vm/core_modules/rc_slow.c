// SPDX-License-Identifier: GPL-2.0
/* Stays in its init until `go` is written; `version` shows what rc_slow_version() returns. */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/sched/signal.h>

static bool go;
module_param(go, bool, 0644);

__attribute__((__noipa__)) int rc_slow_version(void)
{
	return 0;
}

static int version_get(char *text, const struct kernel_param *parameter)
{
	return sysfs_emit(text, "%d\n", rc_slow_version());
}

static const struct kernel_param_ops version_ops = { .get = version_get };
module_param_cb(version, &version_ops, NULL, 0444);

static int __init slow_init(void)
{
	while (!READ_ONCE(go) && !fatal_signal_pending(current))
		msleep(20);
	return 0;
}

static void __exit slow_exit(void)
{
}

module_init(slow_init);
module_exit(slow_exit);
MODULE_DESCRIPTION("rebootless test: a module with a long init");
MODULE_LICENSE("GPL");
