/* ops.c: fills the operator table for the CPU: ref first, then each instruction set up to the one wanted overrides what
 * it does better. Called by the engine at open and by the checks. There is no other dispatch. */
#include <stdio.h>
#include <string.h>

#include "../ref/ref.h"
#include "features.h"
#include "ops.h"
#include "sample.h"

static void fill_ref(kvq_ops *ops) {
#define KVQ_X(op) ops->op = kvq_ref_##op;
    KVQ_OP_MAP(KVQ_X)
#undef KVQ_X
}

typedef void fill_fn(kvq_ops *ops);

#define FAMILIES 3
#define FILL_0(fill) NULL
#define FILL_1(fill) fill
#define ISA_ROW(name, rows, linear, kv) \
    {#name,                             \
     kvq_cpu_has_##name,                \
     {FILL_##rows(kvq_rows_fill_##name), FILL_##linear(kvq_linear_fill_##name), FILL_##kv(kvq_kv_fill_##name)}},
static const struct isa {
    const char *name;
    bool (*has)(void);
    fill_fn *fill[FAMILIES]; /* NULL: no file of that family */
} isas[] = {KVQ_ISA_MAP_HERE(ISA_ROW)};

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
        if ((automatic || strcmp(isa, isas[i].name) == 0) && isas[i].has()) last = i;
    if (last == N_ISAS) return no_such_isa(isa, err);
    kvq_ops filled = {.backend = last == 0 ? "ref" : "cpu", .isa = isas[last].name};
    fill_ref(&filled);
    if (last > 0) kvq_cpu_fill_sample(&filled);
    for (size_t i = 0; i <= last; i++) {
        if (!isas[i].has()) continue; /* not every CPU that has a set has all those before it */
        for (int f = 0; f < FAMILIES; f++)
            if (isas[i].fill[f]) isas[i].fill[f](&filled);
    }
    *ops = filled;
    return KVQ_OK;
}
