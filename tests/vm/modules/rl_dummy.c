// SPDX-License-Identifier: GPL-2.0
/* Patches the dummy network driver, loaded or not: every dummy device has sent 4242 packets. */
#include <linux/netdevice.h>

#include "rl_common.h"

static void rl_dummy_get_stats64(struct net_device *dev, struct rtnl_link_stats64 *stats)
{
	stats->tx_packets = 4242;
}

RL_LIVEPATCH("dummy", "dummy_get_stats64", rl_dummy_get_stats64, false);
