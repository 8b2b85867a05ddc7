/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * rebootless_core: puts patches into the running kernel, by an engine of its own.
 *
 *	main.c		the module itself: allocation, waiting for all CPUs
 *	patch.c		patches: taking in, letting go
 *	transition.c	the way from one set of patches in force to another
 *	object.c	what a patch changes in vmlinux or in a module, and when it is there
 *	modules.c	... which comes and goes with the module
 *	symbols.c	addresses by name and position
 *	reloc.c		a patch's places that wait for addresses
 *	sysfs.c		patches in mainline's layout
 *	site.c		the entry of a function of the kernel, and where it leads
 *	site_ftrace.c	... by ftrace
 *	site_jump.c	... by a jump, where there is no ftrace
 *	stack.c		whose stack holds what
 *	atomic.c	engine: everything stops, all functions switch together
 *	atomic_stop.c	... the stop
 *	pertask.c	engine: each task switches when its own stack is clean
 *	pertask_move.c	... one task
 *	signal.c	wakes stragglers
 *	drive.c		makes a transition of mainline's livepatch quick
 *	shadow.c	shadow variables and states for kernels without livepatch
 *	compat.h	what differs between kernels
 */
#ifndef _RB_CORE_H
#define _RB_CORE_H

#include <linux/ftrace.h>
#include <linux/kobject.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/workqueue.h>
#include <rebootless_core.h>
#include "compat.h"

/*
 * Guards all that is below, but for what the redirections read. It is taken within
 * the chain of module notifiers and within sysfs files of ours; so nothing that
 * waits for one of these (register_module_notifier(), kobject_add(), kobject_del()) may
 * be done with it held.
 */
extern struct mutex rb_mutex;

/*
 * Whatever the core allocates, zeroed; NULL when there is no memory. With the module
 * parameter fail_at=N the Nth allocation from then on fails, to test what happens.
 * rb_fails() counts as an allocation: for calls that allocate elsewhere.
 */
void *rb_alloc(size_t size) __must_check;
void rb_free(const void *memory);
bool rb_fails(void) __must_check;

struct rb_patch;
struct rb_object;

/*
 * The entry of a function of the kernel that some patch changes.
 *
 * `now` is the code that is called, NULL for the function's own; `then` the code
 * that tasks call which have moved in the transition that goes on. Without a
 * transition both are the same. A site lives from the first patch that changes the
 * function to the end of the last.
 */
struct rb_site {
	struct list_head list;		/* rb_sites */
	struct list_head funcs;		/* struct rb_func.stack, the newest first */
	unsigned long address;		/* of the function */
	unsigned long size;		/* bytes */
	unsigned long ip;		/* where the redirection is */
	struct rebootless_entry shipped;	/* all 0: not known */
	void *now;
	void *then;
	const struct rb_redirect *redirect;
#ifdef CONFIG_DYNAMIC_FTRACE
	struct ftrace_ops ops;
#endif
	u8 original[8];			/* the jump: what was there */
	u8 written[8];			/* the jump: what we left there */
	void *alias;			/* the jump: a writable mapping of ip, for a stop */
	bool installed;
};

extern struct list_head rb_sites;

/* A way to redirect a function: ftrace, or a jump at its entry. */
struct rb_redirect {
	const char *name;
	bool conditional;	/* can lead each task elsewhere */
	/*
	 * Sets site->ip; says whether the site can be redirected this way, checking
	 * the bytes that are there. -EBUSY: someone else holds it (told in the log).
	 */
	int (*check)(struct rb_site *site);
	/* Nothing changes for callers yet: now == then == NULL. May sleep. */
	int (*install)(struct rb_site *site);
	/* May sleep; now == then == NULL. The bytes are as before afterwards. */
	int (*remove)(struct rb_site *site);
	/*
	 * `site->now` has a new value: makes it so. NULL where the redirection reads
	 * site->now itself. Called with everything stopped.
	 */
	void (*switched)(struct rb_site *site);
	/*
	 * Around a stop, for `switched`; NULL: not needed. prepare() may sleep and
	 * fails (told in the log) where the bytes are not what they should be; ready()
	 * looks once more with everything stopped, before any site is switched; settle()
	 * is called for each site that was prepared.
	 */
	int (*prepare)(struct rb_site *site);
	bool (*ready)(struct rb_site *site);
	void (*settle)(struct rb_site *site);
};

extern const struct rb_redirect rb_redirect_ftrace;
extern const struct rb_redirect rb_redirect_jump;

/* site.c */
struct rb_site *rb_site_get(unsigned long address, unsigned long size, bool conditional,
			    const struct rebootless_entry *shipped);
/*
 * Sites that no func uses lead to the function itself, and are removed. Each may take a
 * tenth of a second, since ftrace waits for all tasks to pass.
 */
void rb_sites_sweep(void);
bool rb_sites_sweep_one(void);		/* whether there was one */
void rb_sites_aim(void);	/* makes `then` of all sites what the patches' `then` says */
/*
 * Makes now and then what the patches say, at once: for code that nobody runs (the
 * module is being loaded, or goes), or where nothing changes by it.
 */
int rb_site_settle(struct rb_site *site);

/* A function of a patch: on the stack of its site while the object is there. */
struct rb_func {
	struct list_head stack;		/* rb_site.funcs */
	struct rb_object *object;
	struct klp_func *klp;
	const struct rebootless_entry *shipped;		/* NULL: not known */
	struct rb_site *site;		/* NULL while the object is not there */
	struct kobject kobj;
};

struct rb_object {
	struct rb_patch *patch;
	struct klp_object *klp;
	struct module *module;		/* NULL: vmlinux, or not loaded */
	bool loaded;			/* its functions have sites */
	bool called;			/* pre_patch has succeeded */
	struct kobject kobj;
	struct rb_func *funcs;
	unsigned int count;
};

/*
 *	            enable              all tasks moved
 *	(absent) ------------> APPLYING ---------------> APPLIED
 *	                        |    ^                      | enabled=0
 *	              enabled=0 |    | enabled=1            v
 *	                        +--> UNDOING <--------------+
 *	                              | all tasks moved back
 *	                              v
 *	                           DISABLED, and the module is let go
 *
 * One patch at most is APPLYING or UNDOING at a time.
 */
enum rb_state { RB_APPLYING, RB_APPLIED, RB_UNDOING, RB_DISABLED };

struct rb_stats {
	u64 begun_ns, elapsed_ns;	/* of the last transition */
	u64 stop_ns;			/* atomic: the last stop that switched */
	unsigned int attempts;
	unsigned int walked;		/* stacks, in the last attempt */
	unsigned int rewalked;		/* atomic: of these, within the stop */
	unsigned int signalled;
};

struct rb_patch {
	struct list_head list;		/* rb_patches, in the order of their coming */
	struct module *module;
	struct klp_patch *klp;
	const struct rebootless_reloc *relocs;
	const struct rebootless_entry *entries;
	const struct rb_engine *engine;
	enum rb_state state;
	/*
	 * Whether it is in force for tasks that have not moved, and for those that have:
	 * site->now and site->then are the newest function whose patch says so. Both are
	 * the same without a transition. `now` without `then`: the transition takes the
	 * patch away (undo, replace); `then` without `now`: it brings the patch.
	 */
	bool now;
	bool then;
	bool forced;			/* tasks may be in its code for ever: keep the module */
	struct rb_object *objects;
	unsigned int count;
	struct kobject kobj;
	struct completion released;	/* kobj and those below it are gone */
	struct work_struct release;
	struct rb_stats stats;
};

extern struct list_head rb_patches;

/* Who keeps a transition from its end. */
#define RB_HELD_MAX 64
struct rb_holder {
	pid_t pid, tid;
	char comm[TASK_COMM_LEN];
	char function[KSYM_NAME_LEN > 128 ? 128 : KSYM_NAME_LEN];	/* "" unknown */
};

struct rb_held {
	unsigned int left;		/* tasks that have not moved; may be more than MAX */
	unsigned int count;		/* of `who` */
	struct rb_holder who[RB_HELD_MAX];
};

/*
 * The transition that goes on: `sites` whose now and then differ. Tasks go from
 * `now` to `then`, or back when `reverse`.
 */
struct rb_transition {
	struct rb_patch *patch;		/* NULL: none */
	bool reverse;
	bool signal;			/* after each attempt that is held */
	struct rb_patch *last;		/* whose attempt `held` is of, if it is there still */
	struct rb_held held;		/* of the last attempt */
};

extern struct rb_transition rb_transition;
extern struct workqueue_struct *rb_queue;	/* of works that end before the module does */

/* An engine. All calls are made with rb_mutex held. */
struct rb_engine {
	const char *name;
	bool conditional;	/* needs redirections that can lead each task elsewhere */
	/* Whether it can work on this kernel: 0 or an error, told in the log. */
	int (*usable)(void);
	/* then is set in each site; tasks may move from here on. */
	int (*begin)(struct rb_transition *t);
	/*
	 * Moves what can be moved. 0: every task runs then-code (now-code when
	 * reverse); -EAGAIN: t->held says who does not. Sets stats.
	 */
	int (*attempt)(struct rb_transition *t);
	/* t->reverse has changed. */
	void (*turn)(struct rb_transition *t);
	/* Wakes those that hold it. */
	void (*signal)(struct rb_transition *t);
	/* Declares every task moved, safe or not. Error, told in the log: nothing is done. */
	int (*force)(struct rb_transition *t);
	/* All have moved. The engine makes now == then for good: returns with every
	 * site settled and no CPU within a redirection that saw otherwise.
	 */
	void (*finish)(struct rb_transition *t);
	/*
	 * How long to the next attempt, in jiffies, by stats.attempts. 0: it gives up, and
	 * the core turns the transition back (one that goes back already is never given
	 * up: another second then).
	 */
	unsigned long (*pause)(struct rb_transition *t);
};

extern const struct rb_engine rb_engine_atomic;
extern const struct rb_engine rb_engine_pertask;

/*
 * The per-task engine's word, read by redirections: RB_MOVING while tasks are in
 * different universes, RB_BASE the universe of those that have not moved.
 */
#define RB_MOVING	1UL
#define RB_BASE		2UL
extern unsigned long rb_universe;
#define RB_TASK_BIT	62	/* of thread_info.flags: fork copies it */

/* stack.c: code that must not be on a stack for its task to move, of rb_transition. */
bool rb_stack_reliable(void);			/* whether this kernel's stacks can be walked */
/*
 * Before an engine's begin, after t->reverse has changed, when objects have come or
 * gone. Error: what was collected before stays.
 */
int rb_code_collect(struct rb_transition *t);
void rb_code_forget(void);			/* after a transition */
/*
 * 0: the task's stack holds none of it; -EBUSY: it does, and `where` (may be NULL)
 * gets the address; -EINVAL: the stack cannot be walked reliably. The task must be
 * current or not run meanwhile: if it runs, this is safe, but the answer is worthless.
 * Its stack must be there (try_get_task_stack()). Does not sleep or allocate.
 */
int rb_stack_check(struct task_struct *task, unsigned long *where);
/* The task of a CPU that has nothing to do; NULL: the kernel's idle_task() is not found. */
struct task_struct *rb_idle(unsigned int cpu);
/* One more task that is left; where 0: it is not known where it is. Under rb_mutex. */
void rb_held_add(struct rb_held *held, struct task_struct *task, unsigned long where);

/* symbols.c */
int rb_symbols_init(void);
struct module *rb_module(const char *name);	/* preemption off. NULL: not there */
/* Any function or variable of vmlinux, exported or not. NULL: not there. */
void *rb_kernel_symbol(const char *name);
/* -ENOENT: not there; -EINVAL: several and position 0, or fewer than position. */
int rb_find_symbol(const char *object, const char *name, unsigned long position,
		   unsigned long *address);
unsigned long rb_symbol_size(unsigned long address);

/* reloc.c: the relocations whose OWNER is `owner` ("vmlinux" or a module's name). */
int rb_relocate(struct rb_patch *patch, const char *owner);

/* shadow.c: what patches ask for, see struct rebootless_patch. */
extern const struct rebootless_services rb_services;
bool rb_states_follow(const struct klp_patch *patch, const struct klp_patch *old);
void rb_shadow_exit(void);		/* at the core's end: forgets all variables */

/* object.c */
int rb_objects_init(struct rb_patch *patch);
void rb_objects_free(struct rb_patch *patch);
int rb_object_load(struct rb_object *object, struct module *module);
const char *rb_objects_unclear(const struct rb_patch *patch);
int rb_objects_load(struct rb_patch *patch);	/* those that are there */
void rb_object_unload(struct rb_object *object);	/* its sites wait for a sweep */
void rb_object_forget(struct rb_object *object);
const char *rb_object_name(const struct rb_object *object);
/* The patch's callbacks, in mainline's sense. */
int rb_pre_patch(struct rb_object *object);
void rb_post_patch(struct rb_object *object);
void rb_pre_unpatch(struct rb_object *object);
void rb_post_unpatch(struct rb_object *object);

/* modules.c: objects come and go with their modules */
bool rb_module_is_there(const struct module *module);
int rb_notifier_init(void);
void rb_notifier_exit(void);

/* sysfs.c */
int rb_sysfs_init(void);
void rb_sysfs_exit(void);
/*
 * Both wait for readers of the patch's files, which take rb_mutex: not with it held. (So
 * does the first, when memory runs out with some of the files there.)
 */
int rb_sysfs_add(struct rb_patch *patch);
void rb_sysfs_remove(struct rb_patch *patch);
extern struct kobject *rb_kobj;			/* /sys/kernel/rebootless */

/* patch.c */
void rb_patch_gone(struct rb_patch *patch);	/* DISABLED: lets go of it, later */

/* transition.c */
/* Its objects are loaded, it is in rb_patches. Error: nothing has changed. */
int rb_transition_enable(struct rb_patch *patch);
bool rb_patch_is_enabled(const struct rb_patch *patch);
int rb_patch_set_enabled(struct rb_patch *patch, bool enabled);
int rb_patch_signal(struct rb_patch *patch);
int rb_patch_force(struct rb_patch *patch);
int rb_transition_init(void);
void rb_transition_exit(void);

/* signal.c */
/*
 * Wakes tasks so that they leave the kernel or pass through their loop; how many were told,
 * and not already before. `which` is asked under RCU. All under rb_mutex.
 */
unsigned int rb_wake_all(bool (*which)(struct task_struct *task));
unsigned int rb_park_all(bool (*which)(struct task_struct *task));	/* they wait outside */
void rb_ask_all(bool (*which)(struct task_struct *task));	/* ... when they leave the kernel */
void rb_wake_end(void);				/* after a transition: takes back what waits */
void rb_wake_init(void);
void rb_wake_exit(void);

/* pertask.c */
int rb_pertask_init(void);
void rb_pertask_exit(void);
/*
 * How many tasks have begun to run since the core came; false: nobody counts them. A task
 * that begins after the count was read is in it before it runs.
 */
bool rb_newcomers(long *count);
/* pertask_move.c */
void rb_pertask_self(void);	/* current moves, if it can; takes rb_mutex */

/* drive.c */
int rb_drive_init(void);
void rb_drive_exit(void);

/* Waits until every CPU has been through the scheduler: no redirection runs that began before. */
void rb_synchronize(void);

#endif /* _RB_CORE_H */
