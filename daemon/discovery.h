/* discovery.h: Home Assistant's device discovery, one retained message. Called by daemon.c after connecting, after a
 * reload, and when Home Assistant says that it started. */
#ifndef KVQD_DISCOVERY_H
#define KVQD_DISCOVERY_H

struct kvqd;

/* Nothing happens unless [telemetry] homeassistant_prefix is set. */
void discovery_publish(struct kvqd *d);

/* Home Assistant forgets a device whose message becomes empty. */
void discovery_remove(struct kvqd *d);

#endif
