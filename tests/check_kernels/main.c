/* main.c: check_kernels, the operators' check: two tables (suites, instruction sets) and the command line. See check.h.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "kernels/isas.h"

static bool has_word(const char *text, const char *word, const char *separators) {
    size_t n = strlen(word);
    for (const char *p = text; (p = strstr(p, word)) != NULL; p += n)
        if ((p == text || strchr(separators, p[-1])) && strchr(separators, p[n])) return true; /* the end counts */
    return false;
}

#if defined(__x86_64__)
static bool cpuinfo_has(const char *flag) {
    char line[8192];
    bool ret = false;
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && !ret && fgets(line, sizeof line, f))
        ret = strncmp(line, "flags", 5) == 0 && has_word(line, flag, " \n");
    if (f) fclose(f);
    return ret;
}
#endif

/* Another source's word on this machine for each of its sets, to hold against kernels/cpu/features.c. */
static bool machine_has_ref(void) {
    return true;
}
static bool machine_has_generic(void) {
    return true;
}
#if defined(__x86_64__)
static bool machine_has_sse41(void) {
    return __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1");
}
static bool machine_has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
/* gcc 12 knows no such name; the kernel's word for it. */
static bool machine_has_avxvnni(void) {
    return machine_has_avx2() && cpuinfo_has("avx_vnni");
}
static bool machine_has_avx512(void) {
    return machine_has_avx2() && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
static bool machine_has_amx(void) {
    return machine_has_avx512() && cpuinfo_has("amx_tile") && cpuinfo_has("amx_int8");
}
#elif defined(__aarch64__)
/* Fields of four bits; the kernel lets programs read these registers (Arm Architecture Reference Manual, D19). */
static bool machine_has_neon(void) {
    return true;
}
static bool machine_has_dotprod(void) {
    uint64_t isar0;
    __asm__("mrs %0, ID_AA64ISAR0_EL1" : "=r"(isar0));
    return (isar0 >> 44 & 15) >= 1; /* DP */
}
static bool machine_has_i8mm(void) {
    uint64_t isar1;
    __asm__("mrs %0, ID_AA64ISAR1_EL1" : "=r"(isar1));
    return (isar1 >> 52 & 15) >= 1; /* I8MM */
}
#endif

/* clang-format off */
static const struct suite {
    const char *name;
    void (*run)(check *c);
    void (*bench)(check *c);
} suites[] = {
    {"selftest",  suite_selftest,  NULL},
    {"rows",      suite_rows,      NULL},
    {"linear",    suite_linear,    bench_linear},
    {"kv",        suite_kv,        bench_kv},
    {"sample",    suite_sample,    NULL},
};

/* clang-format on */

#define SET(name, rows, linear, kv) {#name, machine_has_##name},
static const struct set {
    const char *name;
    bool (*machine_has)(void);
} sets[] = {KVQ_ISA_MAP_HERE(SET)};

#define COUNT(array) (sizeof array / sizeof *array)

static const kvq_shapes shapes = {.max_rows = 96,
                                  .max_in = 8192,
                                  .max_out = 8192,
                                  .n_heads = 32,
                                  .n_kv_heads = 32,
                                  .head_dim = 256,
                                  .max_tokens = 4096,
                                  .block_tokens = 128,
                                  .max_seqs = 8,
                                  .n_groups = 1,
                                  .vocab_size = 262144};

static void usage(void) {
    printf(
        "usage: check_kernels [--list] [--test=PATTERN] [--seed=N] [--sample=N] [--expect=SET,SET...] [--bench]\n"
        "                     [--plugin=FILE [--device=N] [--host-memory]]\n"
        "  --test    only cases whose name contains PATTERN (* stands for anything)\n"
        "  --sample  one case in N: another choice for every seed; for emulators\n"
        "  --expect  the instruction sets that must be found, instead of what the machine says\n"
        "  --plugin  check the CUDA backend of this file instead of the CPU's instruction sets\n"
        "  --device  of the plugin: which GPU\n"
        "  --host-memory  its device sees the host's memory (the SIMT shim): buffers end at a page no one may touch\n"
        "  --bench   times instead of checks\n");
}

static bool must_have(const struct set *set, const char *expect) {
    return expect && strcmp(set->name, "ref") != 0 ? has_word(expect, set->name, ",") : set->machine_has();
}

static bool auto_is_best(const check *c) {
    const char *best = c->levels[c->n_levels - 1].name;
    kvq_ops ops;
    kvq_error error;
    if (kvq_cpu_ops_init(&ops, "auto", &error) == KVQ_OK && strcmp(ops.isa, best) == 0) return true;
    printf("FAILED: instruction set 'auto' is not '%s'\n", best);
    return false;
}

/* The sets that kvq_cpu_ops_init gives, which must be those the machine has: a set that is skipped is not a set that
 * passed. */
static bool find_levels(check *c, const char *expect) {
    bool right = true;
    for (size_t i = 0; i < COUNT(sets); i++) {
        kvq_error error;
        check_level *level = &c->levels[c->n_levels];
        level->name = sets[i].name;
        level->backend = kvq_cpu_backend();
        bool has = kvq_cpu_ops_init(&level->ops, sets[i].name, &error) == KVQ_OK;
        c->n_levels += has;
        if (!has) printf("skipped: %s\n", error.text);
        if (has == must_have(&sets[i], expect)) continue;
        printf("FAILED: instruction set '%s' is %s, against what the machine says\n", sets[i].name,
               has ? "used" : "missing");
        right = false;
    }
    return right && auto_is_best(c);
}

/* Instead of the CPU's sets: ref, and the plugin's device. */
static bool find_plugin(check *c, const char *path, int index) {
    kvq_error error = {0};
    check_level *level = &c->levels[1];
    kvq_device_info info;
    c->levels[0] = (check_level){.name = "ref", .backend = kvq_cpu_backend()};
    kvq_status status = kvq_cpu_ops_init(&c->levels[0].ops, "ref", &error);
    if (!status) status = kvq_plugin_open(path, &level->backend, &error);
    if (!status)
        status = level->backend->open(&(kvq_device_options){.isa = "auto", .index = index}, &level->device, &error);
    if (status) {
        printf("FAILED: %s\n", error.text);
        return false;
    }
    level->ops = *level->backend->ops(level->device);
    level->name = level->ops.isa;
    level->backend->describe(level->device, &info);
    printf("%s (%s)\n", info.name, info.version);
    c->n_levels = 2;
    return true;
}

static bool open_streams(check *c) {
    kvq_error error = {0};
    kvq_shapes one = shapes, many = shapes;
    one.threads = 1;
    many.threads = CHECK_THREADS;
    kvq_status status = kvq_cpu_stream_new(&one, &c->one, &error);
    if (!status) status = kvq_cpu_stream_new(&many, &c->many, &error);
    for (int l = 0; l < c->n_levels && !status; l++) {
        check_level *level = &c->levels[l];
        level->one = c->one;
        level->many = c->many;
        if (!level->device) continue;
        status = level->backend->stream_new(level->device, &one, &level->one, &error);
        if (!status) status = level->backend->stream_new(level->device, &many, &level->many, &error);
    }
    if (status) printf("FAILED: %s\n", error.text);
    return !status;
}

static void close_streams(check *c) {
    for (int l = 0; l < c->n_levels; l++) {
        const check_level *level = &c->levels[l];
        if (!level->device) continue;
        level->backend->stream_free(level->one);
        level->backend->stream_free(level->many);
        level->backend->close(level->device);
    }
    kvq_cpu_stream_free(c->one);
    kvq_cpu_stream_free(c->many);
}

typedef struct arguments {
    const char *expect, *plugin;
    int device;
    bool host_memory;
} arguments;

static bool parse(int argc, char **argv, check *c, arguments *a) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--list") == 0)
            c->list = true;
        else if (strcmp(argv[i], "--bench") == 0)
            c->bench = true;
        else if (strncmp(argv[i], "--test=", 7) == 0)
            c->pattern = argv[i] + 7;
        else if (strncmp(argv[i], "--seed=", 7) == 0)
            c->seed = strtoull(argv[i] + 7, NULL, 10);
        else if (strncmp(argv[i], "--sample=", 9) == 0)
            c->sample = atoi(argv[i] + 9);
        else if (strncmp(argv[i], "--expect=", 9) == 0)
            a->expect = argv[i] + 9;
        else if (strncmp(argv[i], "--plugin=", 9) == 0)
            a->plugin = argv[i] + 9;
        else if (strncmp(argv[i], "--device=", 9) == 0)
            a->device = atoi(argv[i] + 9);
        else if (strcmp(argv[i], "--host-memory") == 0)
            a->host_memory = true;
        else
            return false;
    }
    return true;
}

static int run_suites(check *c) {
    for (size_t i = 0; i < COUNT(suites); i++) {
        int cases = c->n_cases, failed = c->n_failed;
        if (c->bench && suites[i].bench) suites[i].bench(c);
        if (!c->bench) suites[i].run(c);
        if (!c->bench && !c->list && c->n_cases > cases)
            printf("%-10s %6d cases, %d failed\n", suites[i].name, c->n_cases - cases, c->n_failed - failed);
    }
    if (c->list || c->bench) return 0;
    if (c->n_cases == 0) {
        printf("FAILED: nothing was checked\n");
        return 1;
    }
    printf("%d cases, %d comparisons, %d failed; seed %llu\n", c->n_cases, c->n_runs, c->n_failed,
           (unsigned long long)c->seed);
    return c->n_failed > 0;
}

int main(int argc, char **argv) {
    check *c = calloc(1, sizeof *c);
    arguments a = {0};
    if (!c) return 2;
    c->seed = 1;
    if (!parse(argc, argv, c, &a)) {
        usage();
        return 2;
    }
    int code = 1;
    bool found = a.plugin ? find_plugin(c, a.plugin, a.device) : find_levels(c, a.expect);
    c->device_memory = a.plugin && !a.host_memory;
    if (found && open_streams(c)) code = run_suites(c);
    close_streams(c);
    free(c);
    return code;
}
