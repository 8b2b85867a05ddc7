// SPDX-License-Identifier: GPL-2.0-only
/* Changes a function that tasks sleep in until they are signalled. */
#include <linux/wait.h>

#include "bench_patch.h"

static DECLARE_WAIT_QUEUE_HEAD(never);

static noinline int new_sleeping(void)
{
	return wait_event_interruptible(never, READ_ONCE(never.head.next) == NULL);
}

BENCH_PATCH({ .old_name = "bench_sleeping", .new_func = new_sleeping });
