// SPDX-License-Identifier: GPL-2.0-only
/* The entries of functions that patches change. */
#define pr_fmt(fmt) "rebootless: " fmt

#include <linux/err.h>
#include <linux/stop_machine.h>

#include "core.h"

LIST_HEAD(rb_sites);

/* The first that can redirect a function does. */
static const struct rb_redirect *const redirects[] = {
	&rb_redirect_ftrace,
	&rb_redirect_jump,
};

static struct rb_site *find(unsigned long address)
{
	struct rb_site *site;

	list_for_each_entry(site, &rb_sites, list) {
		if (site->address == address)
			return site;
	}
	return NULL;
}

static int choose(struct rb_site *site, bool conditional)
{
	const struct rb_redirect *redirect;
	int error = -EOPNOTSUPP;
	unsigned int n;

	for (n = 0; n < ARRAY_SIZE(redirects); n++) {
		redirect = redirects[n];
		if (conditional && !redirect->conditional)
			continue;
		error = redirect->check(site);
		if (!error) {
			site->redirect = redirect;
			return 0;
		}
	}
	pr_err("%ps cannot be redirected (%d)%s\n", (void *)site->address, error,
	       conditional ? ": ftrace does not know it, which engine per-task needs" : "");
	return error;
}

static struct rb_site *make(unsigned long address, unsigned long size, bool conditional,
			    const struct rebootless_entry *shipped)
{
	struct rb_site *site = rb_alloc(sizeof(*site));
	int error;

	if (!site)
		return ERR_PTR(-ENOMEM);
	INIT_LIST_HEAD(&site->funcs);
	site->address = address;
	site->size = size;
	if (shipped)
		site->shipped = *shipped;
	error = choose(site, conditional);
	if (!error)
		error = site->redirect->install(site);
	if (error) {
		rb_free(site);
		return ERR_PTR(error);
	}
	site->installed = true;
	list_add_tail(&site->list, &rb_sites);
	return site;
}

/*
 * The site of a function, made if need be: then it leads to the function itself. An
 * error is told in the log.
 */
struct rb_site *rb_site_get(unsigned long address, unsigned long size, bool conditional,
			    const struct rebootless_entry *shipped)
{
	struct rb_site *site = find(address);

	if (!site)
		return make(address, size, conditional, shipped);
	if (conditional && !site->redirect->conditional) {
		pr_err("%ps is redirected by a %s, which engine per-task cannot work with\n",
		       (void *)address, site->redirect->name);
		return ERR_PTR(-EBUSY);
	}
	return site;
}

/* A site that cannot be removed stays, and the module with it: it may still be called. */
static void drop(struct rb_site *site)
{
	list_del(&site->list);
	if (site->redirect->remove(site)) {
		pr_err("the redirection of %ps stays\n", (void *)site->address);
		__module_get(THIS_MODULE);
		return;
	}
	rb_free(site);
}

bool rb_sites_sweep_one(void)
{
	struct rb_site *site;

	list_for_each_entry(site, &rb_sites, list) {
		if (list_empty(&site->funcs)) {
			drop(site);
			return true;
		}
	}
	return false;
}

void rb_sites_sweep(void)
{
	while (rb_sites_sweep_one())
		;
}

/* Where the newest function leads whose patch is in force, now or then. */
static void *lead(struct rb_site *site, bool then)
{
	struct rb_patch *patch;
	struct rb_func *func;

	list_for_each_entry(func, &site->funcs, stack) {
		patch = func->object->patch;
		if (then ? patch->then : patch->now)
			return func->klp->new_func;
	}
	return NULL;
}

void rb_sites_aim(void)
{
	struct rb_site *site;

	list_for_each_entry(site, &rb_sites, list)
		WRITE_ONCE(site->then, lead(site, true));
}

static int stopped(void *data)
{
	struct rb_site *site = data;

	if (site->redirect->ready && !site->redirect->ready(site))
		return -EBUSY;
	site->redirect->switched(site);
	return 0;
}

static int make_so(struct rb_site *site)
{
	int error;

	error = site->redirect->prepare ? site->redirect->prepare(site) : 0;
	if (error)
		return error;
	error = stop_machine(stopped, site, NULL);
	if (site->redirect->settle)
		site->redirect->settle(site);
	return error;
}

int rb_site_settle(struct rb_site *site)
{
	void *before = site->now;
	int error;

	WRITE_ONCE(site->then, lead(site, true));
	WRITE_ONCE(site->now, lead(site, false));
	if (site->now == before || !site->redirect->switched)
		return 0;
	error = make_so(site);
	if (error)
		WRITE_ONCE(site->now, before);
	return error;
}
