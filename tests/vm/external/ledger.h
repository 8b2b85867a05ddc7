/* SPDX-License-Identifier: GPL-2.0 */
#ifndef LEDGER_H
#define LEDGER_H

#include <linux/types.h>

#define MOST_ENTRIES 8

struct entry {
	const char *what;
	int amount;
};

int book_add(const char *what, int amount);
int book_sum(void);

static inline bool is_small(int amount)
{
	return amount > -100 && amount < 100;
}

#endif
