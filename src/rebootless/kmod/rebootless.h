/* SPDX-License-Identifier: GPL-2.0-only */
/* What the author of a live patch may say in C. Found by <rebootless.h> when a patch is built. */
#ifndef REBOOTLESS_H
#define REBOOTLESS_H

#include <rebootless_patch.h>

#endif
