/* bench_sampler.c: microseconds a draw from a vocabulary of 262,144, by setting. Asserts nothing; run by hand. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "../unit/draw.h"

enum { VOCAB = 262144, RUNS = 200 };

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

/* Roughly what a model gives: a bell around 0 and a few tokens far above it. */
static float *make_logits(void) {
    float *x = malloc(VOCAB * sizeof *x);
    if (!x) exit(1);
    srand(1);
    for (int i = 0; i < VOCAB; i++) {
        double sum = 0;
        for (int j = 0; j < 12; j++) sum += (double)rand() / RAND_MAX;
        x[i] = (float)((sum - 6) * 2.5);
    }
    for (int i = 0; i < 50; i++) x[rand() % VOCAB] = (float)(20 - 0.3 * i);
    return x;
}

int main(void) {
    static const struct {
        const char *what;
        kvq_sampling sampling;
    } settings[] = {
        {"temperature 0", {.top_p = 1, .repetition_penalty = 1}},
        {"temperature 0, repetition 1.1", {.top_p = 1, .repetition_penalty = 1.1f}},
        {"top_k 40", {.temperature = 0.8f, .top_p = 1, .top_k = 40, .repetition_penalty = 1}},
        {"top_k 40, top_p 0.95", {.temperature = 0.8f, .top_p = 0.95f, .top_k = 40, .repetition_penalty = 1}},
        {"top_p 0.95", {.temperature = 0.8f, .top_p = 0.95f, .repetition_penalty = 1}},
        {"min_p 0.05", {.temperature = 0.8f, .top_p = 1, .min_p = 0.05f, .repetition_penalty = 1}},
        {"temperature 1 alone", {.temperature = 1, .top_p = 1, .repetition_penalty = 1}},
    };
    float *x = make_logits();
    int answer[512];
    for (int i = 0; i < 512; i++) answer[i] = i * 7;
    drawer *s = drawer_new(VOCAB);
    for (size_t k = 0; k < sizeof settings / sizeof *settings; k++) {
        int64_t sum = 0;
        double begin = now_us();
        for (int i = 0; i < RUNS; i++) sum += draw(s, &settings[k].sampling, x, NULL, 0, answer, 512, i);
        printf("%-32s %8.1f us a draw   (ids sum to %lld)\n", settings[k].what, (now_us() - begin) / RUNS,
               (long long)sum);
    }
    drawer_free(s);
    free(x);
}
