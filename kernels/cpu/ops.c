/* ops.c: fills the operator table for the CPU: ref first, then each instruction set up to the one wanted overrides what
 * it does better. Called by the engine at open and by the checks. There is no other dispatch. */
#include <stdio.h>
#include <string.h>

#include "../ref/ref.h"
#include "features.h"
#include "ops.h"

static bool always(void) {
    return true;
}

typedef void fill_fn(kvq_ops *ops);

static void fill_ref(kvq_ops *ops) {
#define KVQ_X(op) ops->op = kvq_ref_##op;
    KVQ_OP_MAP(KVQ_X)
#undef KVQ_X
}

/* The instruction sets in rising order: a machine that has one has those above it. */
static const struct isa {
    const char *name;
    bool (*has)(void);
    fill_fn *fill[4]; /* up to the first NULL */
} isas[] = {
    {"ref", always, {fill_ref}},
    {"generic", always, {kvq_rows_fill_generic, kvq_linear_fill_generic, kvq_kv_fill_generic}},
#if defined(__x86_64__)
    {"avx2", kvq_cpu_has_avx2, {kvq_rows_fill_avx2, kvq_linear_fill_avx2, kvq_kv_fill_avx2}},
    {"avx512", kvq_cpu_has_avx512, {kvq_rows_fill_avx512, kvq_linear_fill_avx512, kvq_kv_fill_avx512}},
#elif defined(__aarch64__)
    {"neon", always, {kvq_rows_fill_neon, kvq_linear_fill_neon, kvq_kv_fill_neon}}, /* part of every arm64 CPU */
    {"dotprod", kvq_cpu_has_dotprod, {kvq_rows_fill_dotprod, kvq_linear_fill_dotprod, kvq_kv_fill_dotprod}},
    {"i8mm", kvq_cpu_has_i8mm, {kvq_rows_fill_i8mm, kvq_linear_fill_i8mm, kvq_kv_fill_i8mm}},
#endif
};

#define N_ISAS (sizeof isas / sizeof *isas)

static kvq_status no_such_isa(const char *name, kvq_error *err) {
    char have[128] = "auto";
    for (size_t i = 0; i < N_ISAS; i++)
        if (isas[i].has()) {
            size_t used = strlen(have);
            snprintf(have + used, sizeof have - used, ", %s", isas[i].name);
        }
    return kvq_fail(err, KVQ_UNSUPPORTED, "instruction set '%s': this machine has %s", name, have);
}

kvq_status kvq_cpu_ops_init(kvq_ops *ops, const char *isa, kvq_error *err) {
    bool automatic = strcmp(isa, "auto") == 0;
    size_t last = N_ISAS;
    for (size_t i = 0; i < N_ISAS; i++)
        if (isas[i].has() && (automatic || strcmp(isa, isas[i].name) == 0)) last = i;
    if (last == N_ISAS) return no_such_isa(isa, err);
    kvq_ops filled = {.backend = last == 0 ? "ref" : "cpu", .isa = isas[last].name};
    for (size_t i = 0; i <= last; i++)
        for (size_t f = 0; f < sizeof isas[i].fill / sizeof *isas[i].fill && isas[i].fill[f]; f++)
            isas[i].fill[f](&filled);
    *ops = filled;
    return KVQ_OK;
}
