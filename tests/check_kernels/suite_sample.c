/* suite_sample.c: the operator sample: every backend draws ref's token, and edits logits as ref does, bit for bit. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define COUNT(array) ((int)(sizeof array / sizeof *array))
#define MOST_ROWS 3
#define MOST_EDITS 300

typedef enum logit_kind { BELL, PEAKS, FLAT, STEPS, ODD, NONE, WIDE, N_KINDS } logit_kind;
static const char *const kind_names[] = {"bell", "peaks", "flat", "steps", "odd", "none", "wide"};

/* clang-format off */
static const struct setting {
    const char *name;
    kvq_sample_row row;
} settings[] = {
    {"greedy",    {.top_p = 1}},
    {"warm",      {.top_p = 1, .temperature = 1}},
    {"cold",      {.top_p = 1, .temperature = 1e-40f}},
    {"top1",      {.top_p = 1, .temperature = 0.8f, .top_k = 1}},
    {"top40",     {.top_p = 1, .temperature = 0.8f, .top_k = 40}},
    {"top3000",   {.top_p = 1, .temperature = 2, .top_k = 3000}},
    {"top40p",    {.top_p = 0.7f, .temperature = 1, .top_k = 40}},
    {"p",         {.top_p = 0.95f, .temperature = 1}},
    {"p_nearly1", {.top_p = 0x1.fffffep-1f, .temperature = 1.5f}},
    {"p_tiny",    {.top_p = 1e-30f, .temperature = 1}},
    {"min",       {.top_p = 1, .temperature = 1, .min_p = 0.05f}},
    {"min1",      {.top_p = 1, .temperature = 1, .min_p = 1}},
    {"all",       {.top_p = 0.9f, .temperature = 0.9f, .top_k = 100, .min_p = 0.01f}},
};
/* clang-format on */

static float make_logit(check *c, logit_kind kind) {
    static const float odd[] = {NAN, -INFINITY, INFINITY, -0.0f, 0, 3e38f, -3e38f, 1e-45f, 2};
    float x = (float)check_random_normal(c);
    switch (kind) {
    case BELL:
        return 3 * x;
    case PEAKS:
        return check_random_int(c, 0, 500) == 0 ? 12 + 3 * x : x;
    case FLAT:
        return -0.25f;
    case STEPS:
        return floorf(2 * x);
    case ODD:
        return check_random_int(c, 0, 3) == 0 ? odd[check_random_int(c, 0, COUNT(odd) - 1)] : x;
    case NONE:
        return odd[check_random_int(c, 0, 2)];
    default:
        return x * 1e18f;
    }
}

/* Different ids, some of them said often. */
static int make_edits(check *c, kvq_sample_edit *edits, int vocab_size) {
    int n = check_random_int(c, 0, vocab_size < MOST_EDITS ? vocab_size : MOST_EDITS);
    int step = vocab_size / (n > 0 ? n : 1);
    for (int i = 0; i < n; i++) {
        edits[i] = (kvq_sample_edit){.id = i * step, .n_seen = check_random_int(c, 0, 3)};
        edits[i].n_answer = check_random_int(c, 0, edits[i].n_seen);
        edits[i].bias = check_random_int(c, 0, 1) ? (float)check_random_normal(c) : 0;
    }
    return n;
}

/* ids bit for bit, then logits. */
static bool same(void *context, int out, const void *want, const void *got, check_difference *ret) {
    const kvq_sample *job = context;
    size_t n = (size_t)job->n_rows;
    if (out == 1) return check_same_floats(want, got, n * (size_t)job->vocab_size, NULL, ret);
    for (size_t i = 0; i < n; i++) {
        int x = ((const int *)want)[i], y = ((const int *)got)[i];
        if (x == y) continue;
        *ret = (check_difference){.index = i, .want = x, .got = y};
        return false;
    }
    return true;
}

static void call_sample(const kvq_ops *ops, kvq_stream *s, void *job) {
    ops->sample(s, job);
}

static void sample_case(check *c, int vocab_size, int n_rows, logit_kind kind, const struct setting *setting,
                        bool edited) {
    if (!check_begin(c, "sample_n%d_r%d_%s_%s%s", vocab_size, n_rows, kind_names[kind], setting->name,
                     edited ? "_edited" : ""))
        return;
    static kvq_sample_row rows[MOST_ROWS];
    static kvq_sample_edit edits[MOST_ROWS * MOST_EDITS];
    kvq_sample job = {.rows = rows, .edits = edits, .n_rows = n_rows, .vocab_size = vocab_size};
    for (int r = 0; r < n_rows; r++) {
        rows[r] = setting->row;
        rows[r].seed = (uint64_t)check_random(c) << 32 | check_random(c);
        rows[r].index = check_random(c) >> 16;
        rows[r].repetition_penalty = 1.3f;
        rows[r].presence_penalty = 0.4f;
        rows[r].frequency_penalty = -0.1f;
        rows[r].edit_begin = job.n_edits;
        if (edited) rows[r].n_edits = make_edits(c, edits + job.n_edits, vocab_size);
        job.n_edits += rows[r].n_edits;
    }
    size_t n = (size_t)n_rows * (size_t)vocab_size;
    job.logits = check_floats(c, n, CHECK_ZEROS);
    for (size_t i = 0; i < n; i++) job.logits[i] = make_logit(c, kind);
    job.ids = check_alloc(c, (size_t)n_rows * sizeof *job.ids);
    check_run(c, &(check_op){.call = call_sample,
                             .job = &job,
                             .outs = {job.ids, job.logits},
                             .n_outs = 2,
                             .compare = same,
                             .context = &job});
    check_end(c);
}

void suite_sample(check *c) {
    static const int sizes[] = {1, 3, 127, 128, 129, 4099};
    for (int s = 0; s < COUNT(settings); s++) {
        for (int kind = 0; kind < N_KINDS; kind++)
            for (int i = (kind + s) % 2; i < COUNT(sizes); i += 2)
                sample_case(c, sizes[i], MOST_ROWS, (logit_kind)kind, &settings[s], kind % 2);
        sample_case(c, 262144, 1, s % 2 ? BELL : PEAKS, &settings[s], s % 3);
    }
    sample_case(c, 100, 0, BELL, &settings[0], false);
}
