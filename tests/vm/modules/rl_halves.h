/* SPDX-License-Identifier: GPL-2.0 */
#ifndef RL_HALVES_H
#define RL_HALVES_H

enum { RL_OLD = 1, RL_NEW };

/* Not inlined, and nothing is known of it where it is called. */
#define RL_FUNCTION noinline __attribute__((__noipa__))

void rl_note(int outer, int inner);
int rl_inner(void);

#endif
