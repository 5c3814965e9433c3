/* test_daemon.c: daemon/daemon.c where no broker and no model can bring it: an engine that fails in the middle of a
 * step. The engine and the connection are the linker's (--wrap). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "daemon/daemon.h"

static int engine; /* stands for one */
#define ENGINE ((kvq_engine *)&engine)

static kvq_status step_status;
static int n_closed, n_published;
static char topic[64], payload[1024]; /* the last that was published */

kvq_status __wrap_kvq_step(kvq_engine *e, const kvq_event **ret_events, size_t *ret_n, kvq_error *err);
bool __wrap_kvq_is_active(const kvq_engine *e);
void __wrap_kvq_get_stats(const kvq_engine *e, kvq_stats *ret);
void __wrap_kvq_close(kvq_engine *e);
bool __wrap_mqtt_publish(mqtt *m, const mqtt_publication *p);

kvq_status __wrap_kvq_step(kvq_engine *e, const kvq_event **ret_events, size_t *ret_n, kvq_error *err) {
    assert_ptr_equal(e, ENGINE);
    *ret_events = NULL;
    *ret_n = 0;
    return kvq_fail(err, step_status, "it broke \xff here");
}

bool __wrap_kvq_is_active(const kvq_engine *e) {
    assert_ptr_equal(e, ENGINE);
    return true;
}

void __wrap_kvq_get_stats(const kvq_engine *e, kvq_stats *ret) {
    assert_ptr_equal(e, ENGINE);
    *ret = (kvq_stats){.generation_tokens = 7};
}

void __wrap_kvq_close(kvq_engine *e) {
    assert_ptr_equal(e, ENGINE);
    n_closed++;
}

bool __wrap_mqtt_publish(mqtt *m, const mqtt_publication *p) {
    (void)m;
    n_published++;
    (void)snprintf(topic, sizeof topic, "%s", p->topic);
    (void)snprintf(payload, sizeof payload, "%.*s", (int)p->n_bytes, (const char *)p->payload);
    return true;
}

static void a_failed_engine_is_an_event_and_a_phase_and_keeps_nothing_it_should_not(void **state) {
    (void)state;
    static const struct {
        kvq_status status;
        const char *event;
        bool is_closed; /* a lost GPU's engine is left to the end of the process */
    } cases[] = {{KVQ_NO_MEMORY, "engine_failed", true}, {KVQ_DEVICE, "gpu_lost", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static char base[] = "kvqd", node[] = "n1", none[] = "";
        static kvqd d;
        d = (kvqd){.engine = ENGINE, .engine_phase = PHASE_READY, .names = {base, node, none, none}};
        step_status = cases[i].status;
        n_closed = n_published = 0;
        daemon_step_engine(&d);

        assert_int_equal(n_published, 1);
        assert_string_equal(topic, "kvqd/n1/event");
        json_t *event = json_loads(payload, 0, NULL);
        assert_string_equal(json_string_value(json_object_get(event, "type")), cases[i].event);
        assert_string_equal(json_string_value(json_object_get(event, "message")), "it broke ? here");
        json_decref(event);

        json_t *told = telemetry_state(&d);
        assert_string_equal(json_string_value(json_object_get(told, "phase")), "failed");
        assert_string_equal(json_string_value(json_object_get(told, "reason")), "it broke ? here");
        json_decref(told);

        assert_int_equal(n_closed, cases[i].is_closed);
        assert_int_equal(d.engine == NULL, cases[i].is_closed);
        assert_int_equal(d.has_lost_gpu, !cases[i].is_closed);
        assert_int_equal(daemon_is_drained(&d), !cases[i].is_closed);
        assert_int_equal(d.telemetry.before.generation_tokens, cases[i].is_closed ? 7 : 0);
    }
}

static void a_conflict_of_names_comes_before_the_engines_phase(void **state) {
    (void)state;
    static kvqd d = {.engine_phase = PHASE_READY, .in_conflict = true};
    json_t *told = telemetry_state(&d);
    assert_string_equal(json_string_value(json_object_get(told, "phase")), "degraded");
    assert_non_null(strstr(json_string_value(json_object_get(told, "reason")), "node_conflict: "));
    json_decref(told);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_engine_is_an_event_and_a_phase_and_keeps_nothing_it_should_not),
        cmocka_unit_test(a_conflict_of_names_comes_before_the_engines_phase),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
