// SPDX-License-Identifier: GPL-2.0-only
/* Changes a function that no task sleeps in. */
#include "bench_patch.h"

static noinline int new_called(int number)
{
	barrier();
	return number + 2;
}

BENCH_PATCH({ .old_name = "bench_called", .new_func = new_called });
