// SPDX-License-Identifier: GPL-2.0
/* Takes the place of every other live patch. */
#define MARKER "rebootless came again"
#define REPLACES true
#include "rl_cmdline.h"
