// SPDX-License-Identifier: GPL-2.0
#define MARKER "rebootless was here"
#define REPLACES false
#include "rl_cmdline.h"
