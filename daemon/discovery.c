/* discovery.c: announces kvqd to Home Assistant (2024.11 and later: one message for the whole device). See discovery.h.
 * The sensors are the rows of telemetry.def that have a name for it, and the phase. */
#include "discovery.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "daemon.h"

typedef enum metric_kind { COUNTER, GAUGE, TEXT, QUANTILES } metric_kind;

static const struct sensor {
    const char *name, *unit;
    metric_kind kind;
    const char *title;
} sensors[] = {
#define METRIC(name, unit, kind, getter, home) {#name, unit, kind, home},
#include "telemetry.def"
#undef METRIC
};

static void add_sensor(json_t *components, const kvqd *d, const char *topic, const struct sensor *s) {
    char unique[160], value[160];
    bool ratio = strcmp(s->unit, "ratio") == 0;
    snprintf(unique, sizeof unique, "kvqd_%s_%s", d->node, s->name);
    snprintf(value, sizeof value,
             ratio ? "{{ (value_json.%s%s | float(0) * 100) | round(1) }}" : "{{ value_json.%s%s }}", s->name,
             s->kind == QUANTILES ? ".p50" : "");
    json_t *component = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "platform", "sensor", "name", s->title, "unique_id",
                                  unique, "state_topic", topic, "value_template", value, "state_class",
                                  s->kind == COUNTER ? "total_increasing" : "measurement");
    const char *unit = ratio ? "%" : strcmp(s->unit, "bytes") == 0 ? "B" : s->unit;
    if (component && *unit)
        (void)json_object_set_new(component, "unit_of_measurement", json_string(unit)); /* no memory: no unit */
    (void)json_object_set_new(components, s->name, component);                          /* no memory: a sensor less */
}

static json_t *components(const kvqd *d) {
    char topic[TOPIC_BYTES], unique[96];
    json_t *all = json_object();
    topic_make(&d->names, TOPIC_TELEMETRY, NULL, topic);
    for (size_t i = 0; all && i < sizeof sensors / sizeof *sensors; i++)
        if (sensors[i].title) add_sensor(all, d, topic, &sensors[i]);
    topic_make(&d->names, TOPIC_STATE, NULL, topic);
    snprintf(unique, sizeof unique, "kvqd_%s_phase", d->node);
    json_t *phase =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "platform", "sensor", "name", "Phase", "unique_id", unique,
                  "state_topic", topic, "value_template", "{{ value_json.phase }}", "icon", "mdi:brain");
    if (all) (void)json_object_set_new(all, "phase", phase); /* no memory: a sensor less */
    return all;
}

void discovery_publish(kvqd *d) {
    char status[TOPIC_BYTES], identifier[96];
    if (!*d->names.home) return;
    topic_make(&d->names, TOPIC_STATUS, NULL, status);
    snprintf(identifier, sizeof identifier, "kvqd_%s", d->node);
    json_t *device = json_pack("{s:[s], s:s, s:s, s:s, s:s}", "identifiers", identifier, "name", d->node,
                               "manufacturer", "kvqd", "model", "LLM appliance", "sw_version", KVQ_VERSION);
    json_t *announcement =
        json_pack("{s:o, s:{s:s, s:s}, s:s, s:o}", "device", device, "origin", "name", "kvqd", "sw_version",
                  KVQ_VERSION, "availability_topic", status, "components", components(d));
    (void)daemon_publish_json(d, TOPIC_DISCOVERY, NULL, announcement); /* sent at every connect again */
}

void discovery_remove(kvqd *d) {
    char topic[TOPIC_BYTES];
    if (!*d->names.home) return;
    topic_make(&d->names, TOPIC_DISCOVERY, NULL, topic);
    mqtt_publication empty = {.topic = topic, .payload = "", .qos = 1, .retained = true, .is_text = true};
    (void)mqtt_publish(d->mqtt, &empty); /* not connected: Home Assistant keeps it, shown as unavailable */
}
