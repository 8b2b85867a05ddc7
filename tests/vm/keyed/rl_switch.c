// SPDX-License-Identifier: GPL-2.0
/* A static key for other modules: /sys/module/rl_switch/parameters/on sets it. */
#include <linux/jump_label.h>
#include <linux/kstrtox.h>
#include <linux/module.h>

DEFINE_STATIC_KEY_FALSE(rl_switch_key);
EXPORT_SYMBOL_GPL(rl_switch_key);

static int on_set(const char *text, const struct kernel_param *param)
{
	bool on;
	int error = kstrtobool(text, &on);

	if (error)
		return error;
	if (on)
		static_branch_enable(&rl_switch_key);
	else
		static_branch_disable(&rl_switch_key);
	return 0;
}

static const struct kernel_param_ops on_ops = { .set = on_set };
module_param_cb(on, &on_ops, NULL, 0200);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A static key, for tests of live patches of modules that follow it");
