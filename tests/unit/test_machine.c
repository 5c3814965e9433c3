/* test_machine.c: which machine is chosen, and what is said when the one asked for is not there. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "engine/machine.h"

#define NO_PLUGIN "/nowhere/libkvq-cuda.so"
#define NO_OBJECT KVQ_SOURCE_DIR "/README.md"

static int without_plugin(void **state) {
    (void)state;
    return setenv("KVQ_CUDA_PLUGIN", NO_PLUGIN, 1);
}

static void cpu_is_the_host_itself(void **state) {
    (void)state;
    kvq_machine m;
    kvq_error err;
    uint8_t *memory;
    assert_int_equal(kvq_machine_open(&m, "cpu", "generic", 0, &err), KVQ_OK);
    assert_string_equal(m.backend->name, "cpu");
    assert_string_equal(m.backend->ops(m.device)->isa, "generic");
    assert_true(m.info.is_host && m.info.shares_memory);
    assert_int_equal(kvq_machine_take(&m, KVQ_MEMORY_DEVICE, 5000, true, "test", &memory, &err), KVQ_OK);
    for (int i = 0; i < 5000; i++) assert_int_equal(memory[i], 0);
    assert_int_equal(m.backend->copy(m.device, memory, "abc", 4, &err), KVQ_OK);
    assert_string_equal((char *)memory, "abc");
    kvq_machine_give(&m, KVQ_MEMORY_DEVICE, memory, 5000);
    kvq_machine_close(&m);
}

static void auto_is_the_cpu_where_no_plugin_is(void **state) {
    (void)state;
    kvq_machine m;
    kvq_error err;
    assert_int_equal(kvq_machine_open(&m, "auto", "auto", 0, &err), KVQ_OK);
    assert_string_equal(m.backend->name, "cpu");
    assert_int_equal(m.passed_over.code, KVQ_OK);
    kvq_machine_close(&m);
}

static void auto_tells_why_it_passed_a_plugin_over(void **state) {
    (void)state;
    kvq_machine m;
    kvq_error err;
    setenv("KVQ_CUDA_PLUGIN", NO_OBJECT, 1);
    assert_int_equal(kvq_machine_open(&m, "auto", "auto", 0, &err), KVQ_OK);
    assert_string_equal(m.backend->name, "cpu");
    assert_int_equal(m.passed_over.code, KVQ_DEVICE);
    assert_non_null(strstr(m.passed_over.text, "the CUDA backend cannot be loaded: " NO_OBJECT));
    kvq_machine_close(&m);
}

/* An instruction set is the CPU's: whoever names one wants the CPU. */
static void an_instruction_set_is_the_cpu(void **state) {
    (void)state;
    kvq_machine m;
    kvq_error err;
    setenv("KVQ_CUDA_PLUGIN", NO_OBJECT, 1);
    assert_int_equal(kvq_machine_open(&m, "auto", "ref", 0, &err), KVQ_OK);
    assert_string_equal(m.backend->name, "cpu");
    assert_int_equal(m.passed_over.code, KVQ_OK);
    kvq_machine_close(&m);
}

static void cuda_is_never_the_cpu(void **state) {
    (void)state;
    kvq_machine m;
    kvq_error err;
    assert_int_equal(kvq_machine_open(&m, "cuda", "auto", 0, &err), KVQ_DEVICE);
    assert_string_equal(err.text, "backend 'cuda' is asked for: there is no CUDA backend at '" NO_PLUGIN "'");
    setenv("KVQ_CUDA_PLUGIN", NO_OBJECT, 1);
    assert_int_equal(kvq_machine_open(&m, "cuda", "auto", 0, &err), KVQ_DEVICE);
    assert_non_null(strstr(err.text, "backend 'cuda' is asked for: the CUDA backend cannot be loaded: "));
}

static void other_names_are_refused(void **state) {
    (void)state;
    kvq_machine m;
    kvq_error err;
    assert_int_equal(kvq_machine_open(&m, "gpu", "auto", 0, &err), KVQ_BAD_ARGUMENT);
    assert_string_equal(err.text, "backend 'gpu' is none of auto, cpu, cuda");
    assert_int_equal(kvq_machine_open(&m, "cpu", "mmx", 0, &err), KVQ_UNSUPPORTED);
    assert_non_null(strstr(err.text, "instruction set 'mmx': this machine has auto, ref, generic"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(cpu_is_the_host_itself, without_plugin),
        cmocka_unit_test_setup(auto_is_the_cpu_where_no_plugin_is, without_plugin),
        cmocka_unit_test_setup(auto_tells_why_it_passed_a_plugin_over, without_plugin),
        cmocka_unit_test_setup(an_instruction_set_is_the_cpu, without_plugin),
        cmocka_unit_test_setup(cuda_is_never_the_cpu, without_plugin),
        cmocka_unit_test_setup(other_names_are_refused, without_plugin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
