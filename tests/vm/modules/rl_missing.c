// SPDX-License-Identifier: GPL-2.0
/* Names a function that no kernel has: the kernel has to refuse the patch. */
#include "rl_common.h"

static void rl_nothing(void)
{
}

RL_LIVEPATCH(NULL, "rl_no_such_function", rl_nothing, false);
