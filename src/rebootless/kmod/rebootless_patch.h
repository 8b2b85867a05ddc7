/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a live patch written as C says of itself. Needs no other header.
 *
 *	REBOOTLESS_UNIT("fs/proc/version.c");
 *		The unit of the kernel whose functions this file replaces: it is
 *		compiled in that unit's place, with its flags and its #include
 *		paths. Without it the functions' names tell the unit.
 *
 *	REBOOTLESS_PATCH(vmlinux, old_function, new_function);
 *		The replacement, below its definition. The object is vmlinux or
 *		the name of a module. The compiler checks that the two are of
 *		one type, where a header declares the old one.
 *
 *	REBOOTLESS_SYMBOL(vmlinux, name, position);
 *		A private function or variable that this file uses. It is also
 *		declared, as usual, with `extern`. The position is 0 for a name
 *		that the object has once, else 1, 2, ... in order of address.
 *
 *	REBOOTLESS_SYMBOL_AS(vmlinux, identifier, "name.12", position);
 *		The same for a name that is not one in C (a static variable of a
 *		function), or that means something else in this file.
 *
 * (checkpatch wants __used and __section(), which are another header's, and a loop
 * around the declarations that REBOOTLESS_PATCH() makes.)
 */
#ifndef REBOOTLESS_PATCH_H
#define REBOOTLESS_PATCH_H

#define REBOOTLESS_UNIT(path)						\
	REBOOTLESS_RECORD(rebootless_unit_, __COUNTER__, "unit", path)

#define REBOOTLESS_PATCH(object, old, new)				\
	extern __typeof__(new) old;					\
	static __typeof__(new) *const rebootless_new_##new		\
	__attribute__((__used__, __section__(".rebootless.functions"))) = new; \
	REBOOTLESS_RECORD(rebootless_patch_, new, "patch", #object "|" #old "|" #new)

#define REBOOTLESS_SYMBOL(object, name, position)			\
	REBOOTLESS_RECORD(rebootless_symbol_, name, "symbol",		\
			  #object "|" #name "|" #name "|" #position)

#define REBOOTLESS_SYMBOL_AS(object, identifier, name, position)	\
	REBOOTLESS_RECORD(rebootless_symbol_, identifier, "symbol",	\
			  #object "|" #identifier "|" name "|" #position)

/* One string per record; the tool reads them out of the object. */
#define REBOOTLESS_RECORD(kind, id, word, text)				\
	REBOOTLESS_RECORD_(kind, id, word "|" text)
#define REBOOTLESS_RECORD_(kind, id, text)				\
	static const char kind##id[]					\
	__attribute__((__used__, __aligned__(1),			\
		       __section__(".rebootless.patch"))) = text

#endif
