/* SPDX-License-Identifier: GPL-2.0 */
/* What belongs together: a version of rl_outer() must only meet the same one of rl_inner(). */
#ifndef RL_HALVES_H
#define RL_HALVES_H

#include <linux/types.h>

/* A caller must not know what is in it. */
#define RL_WHOLE __attribute__((__noipa__))

struct rl_count {
	u64 calls;
	u64 mixes;	/* calls in which the two were of different versions */
	u64 ups, downs;	/* calls whose version was another one than that of the call before */
	int version;	/* of the last call */
};

extern unsigned int rl_naps;

void rl_turn(int version);
int rl_inner(int pause);
void rl_outer(struct rl_count *count);

/* One call of a version of rl_outer(): meets rl_inner() several times, and gives way. */
static __always_inline void rl_meet(struct rl_count *count, int version)
{
	bool mixed = false;
	int n;

	for (n = 0; n < 3; n++)
		mixed |= rl_inner(!(count->calls % rl_naps) && n == 1) != version;
	count->calls++;
	count->mixes += mixed;
	count->ups += version > count->version;
	count->downs += version < count->version;
	count->version = version;
	rl_turn(version);
}

#endif
