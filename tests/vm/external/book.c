// SPDX-License-Identifier: GPL-2.0
/* The entries of the ledger. */
#include <linux/errno.h>
#include <linux/export.h>
#include <linux/mutex.h>
#include <linux/printk.h>

#include "ledger.h"

static DEFINE_MUTEX(lock);
static struct entry entries[MOST_ENTRIES];
static int used;

static noinline int check(int amount)
{
	if (!is_small(amount))
		return -ERANGE;
	return 0;
}

int book_add(const char *what, int amount)
{
	int error = check(amount);

	if (error)
		return error;
	mutex_lock(&lock);
	if (used == MOST_ENTRIES) {
		mutex_unlock(&lock);
		pr_warn("%s:%d: no room for %s\n", __FILE__, __LINE__, what);
		return -ENOSPC;
	}
	entries[used].what = what;
	entries[used++].amount = amount;
	mutex_unlock(&lock);
	return 0;
}

int book_sum(void)
{
	int i, sum = 0;

	mutex_lock(&lock);
	for (i = 0; i < used; i++)
		sum += entries[i].amount;
	mutex_unlock(&lock);
	return sum;
}
EXPORT_SYMBOL_GPL(book_sum);
