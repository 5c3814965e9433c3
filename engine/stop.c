/* stop.c: finds stop strings in the text of an answer as it streams. Called by engine.c for each new piece; the
 * contract stands in sampler.h.
 *
 * One automaton per stop string (Knuth, Morris, Pratt 1977): its state is the length of the longest end of the text
 * that begins the string. So a byte costs a few steps per string, what must be held back is the largest state, and the
 * result does not depend on how the text was cut into pieces: the text ends at the first byte that completes a stop
 * string; if several complete there, before the longest of them. */
#include "sampler.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* What a request may ask for; both far above what people use. */
#define MAX_STOPS 64
#define MAX_STOP_BYTES 4096
#define FIRST_CAPACITY 1024 /* longer than nearly every piece, so that feeding rarely allocates */

typedef struct stop {
    const char *bytes; /* in the matcher's text */
    uint16_t n_bytes, state;
    uint16_t *fallback; /* [n_bytes] length of the longest proper border of the first i + 1 bytes */
} stop;

struct kvq_stop_matcher {
    stop *stops;
    int n_stops;
    char *text;          /* the stop strings, one behind the other */
    uint16_t *fallbacks; /* theirs, likewise */
    char *buffer;        /* released text, then held text */
    size_t capacity_bytes, n_released, n_held;
    bool found;
};

static bool is_utf8(const char *text, size_t n) {
    const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)text;
    utf8proc_ssize_t left = (utf8proc_ssize_t)n;
    while (left > 0) {
        utf8proc_int32_t codepoint;
        utf8proc_ssize_t used = utf8proc_iterate(p, left, &codepoint);
        if (used <= 0) return false;
        p += used;
        left -= used;
    }
    return true;
}

/* A stop string that begins inside a character would make the text end inside one. */
static kvq_status check_stops(const char *const *stops, int n_stops, size_t *ret_n_bytes, kvq_error *err) {
    size_t n_total = 0;
    if (n_stops < 0 || n_stops > MAX_STOPS)
        return kvq_fail(err, KVQ_BAD_ARGUMENT, "'stop' has %d strings; allowed are at most %d.", n_stops, MAX_STOPS);
    for (int i = 0; i < n_stops; i++) {
        size_t n = strnlen(stops[i], MAX_STOP_BYTES + 1);
        if (n == 0)
            return kvq_fail(err, KVQ_BAD_ARGUMENT, "'stop' string %d is empty, which would end every answer.", i);
        if (n > MAX_STOP_BYTES)
            return kvq_fail(err, KVQ_BAD_ARGUMENT, "'stop' string %d is longer than the %d bytes allowed.", i,
                            MAX_STOP_BYTES);
        if (!is_utf8(stops[i], n)) return kvq_fail(err, KVQ_BAD_ARGUMENT, "'stop' string %d is not valid UTF-8.", i);
        n_total += n;
    }
    *ret_n_bytes = n_total;
    return KVQ_OK;
}

/* The state that follows when `byte` comes after a text whose longest end in s has the length `state`, below n_bytes.
 */
static uint16_t advance(const stop *s, uint16_t state, char byte) {
    while (state > 0 && s->bytes[state] != byte) state = s->fallback[state - 1];
    return s->bytes[state] == byte ? (uint16_t)(state + 1) : 0;
}

static void init_fallback(stop *s) {
    s->fallback[0] = 0;
    for (uint16_t i = 1; i < s->n_bytes; i++) s->fallback[i] = advance(s, s->fallback[i - 1], s->bytes[i]);
}

kvq_status kvq_stop_new(const char *const *stops, int n_stops, kvq_stop_matcher **ret, kvq_error *err) {
    size_t n_total = 0;
    kvq_status status = check_stops(stops, n_stops, &n_total, err);
    if (status) return status;
    kvq_stop_matcher *m = calloc(1, sizeof *m);
    if (!m) goto fail;
    m->n_stops = n_stops;
    m->capacity_bytes = FIRST_CAPACITY;
    m->stops = calloc((size_t)n_stops + 1, sizeof *m->stops);
    m->text = malloc(n_total + 1);
    m->fallbacks = calloc(n_total + 1, sizeof *m->fallbacks);
    m->buffer = malloc(m->capacity_bytes);
    if (!m->stops || !m->text || !m->fallbacks || !m->buffer) goto fail;
    size_t offset = 0;
    for (int i = 0; i < n_stops; i++) {
        stop *s = &m->stops[i];
        s->n_bytes = (uint16_t)strlen(stops[i]);
        s->bytes = memcpy(m->text + offset, stops[i], s->n_bytes);
        s->fallback = m->fallbacks + offset;
        init_fallback(s);
        offset += s->n_bytes;
    }
    *ret = m;
    return KVQ_OK;
fail:
    kvq_stop_free(m);
    return kvq_fail(err, KVQ_NO_MEMORY, "No memory for %d stop strings.", n_stops);
}

void kvq_stop_free(kvq_stop_matcher *m) {
    if (!m) return;
    free(m->stops);
    free(m->text);
    free(m->fallbacks);
    free(m->buffer);
    free(m);
}

/* Room for n bytes behind what is held; the released text of the last call goes. */
static bool make_room(kvq_stop_matcher *m, size_t n) {
    memmove(m->buffer, m->buffer + m->n_released, m->n_held);
    m->n_released = 0;
    if (n <= m->capacity_bytes - m->n_held) return true;
    if (n > SIZE_MAX - m->n_held) return false;
    char *larger = realloc(m->buffer, m->n_held + n);
    if (!larger) return false;
    m->buffer = larger;
    m->capacity_bytes = m->n_held + n;
    return true;
}

/* Length of the longest stop string that `byte` completes; 0 if none. *ret_hold: the longest beginning of one. */
static size_t advance_all(kvq_stop_matcher *m, char byte, size_t *ret_hold) {
    size_t completed = 0, hold = 0;
    for (int i = 0; i < m->n_stops; i++) {
        stop *s = &m->stops[i];
        s->state = advance(s, s->state, byte);
        if (s->state == s->n_bytes && s->state > completed) completed = s->state;
        if (s->state > hold) hold = s->state;
    }
    *ret_hold = hold;
    return completed;
}

/* Without memory for the text the answer ends here, with what was held: cut short, but never with a hole in it. */
static bool end_text(kvq_stop_matcher *m, size_t n_text) {
    m->found = true;
    m->n_released = n_text;
    m->n_held = 0;
    return true;
}

static bool feed(kvq_stop_matcher *m, const char *text, size_t n) {
    if (m->found || !make_room(m, n)) return end_text(m, m->found ? 0 : m->n_held);
    size_t n_before = m->n_held, hold = m->n_held;
    for (size_t i = 0; i < n; i++) {
        size_t completed = advance_all(m, text[i], &hold);
        m->buffer[n_before + i] = text[i];
        if (completed) return end_text(m, n_before + i + 1 - completed);
    }
    m->n_released = n_before + n - hold;
    m->n_held = hold;
    return false;
}

bool kvq_stop_feed(kvq_stop_matcher *m, const char *text, size_t n, const char **ret_text, size_t *ret_n) {
    bool found = feed(m, text, n);
    *ret_text = m->buffer;
    *ret_n = m->n_released;
    return found;
}

void kvq_stop_finish(kvq_stop_matcher *m, const char **ret_text, size_t *ret_n) {
    (void)make_room(m, 0); /* asks for nothing, so it cannot fail */
    m->n_released = m->n_held;
    m->n_held = 0;
    for (int i = 0; i < m->n_stops; i++) m->stops[i].state = 0;
    *ret_text = m->buffer;
    *ret_n = m->n_released;
}
