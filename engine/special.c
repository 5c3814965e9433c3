/* special.c: special tokens cut out of a text, the longest first.
 * Called by tokenizer.c for every text. A longer token wins wherever it stands, also over a shorter one that starts
 * before it; tokens of one length are taken from left to right. That is llama.cpp's order, which searches the text once
 * for each of up to thousands of tokens. Here one pass, following the text through the sorted tokens, finds which
 * lengths occur at all (in ordinary text: none), and only for those the text is cut, length by length. */
#include "special.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- the set ----------------------------------------------------------------------------------------------------- */

typedef struct entry {
    kvq_text text;
    int id;
} entry;

static int compare_entries(const void *a, const void *b) {
    const entry *x = a, *y = b;
    size_t n = x->text.n_bytes < y->text.n_bytes ? x->text.n_bytes : y->text.n_bytes;
    int order = memcmp(x->text.bytes, y->text.bytes, n);
    return order ? order : (x->text.n_bytes > y->text.n_bytes) - (x->text.n_bytes < y->text.n_bytes);
}

static size_t collect(const kvq_vocab *v, unsigned with, unsigned without, entry *out) {
    size_t n = 0;
    for (int id = 0; id < v->n_tokens; id++) {
        if (!(v->attributes[id] & with) || (v->attributes[id] & without)) continue;
        if (out) out[n] = (entry){v->texts[id], id};
        n++;
    }
    return n;
}

bool kvq_special_init(kvq_special *s, const kvq_vocab *v, unsigned with, unsigned without) {
    *s = (kvq_special){.n = collect(v, with, without, NULL)};
    entry *entries = malloc((s->n + 1) * sizeof *entries);
    s->ids = malloc((s->n + 1) * sizeof *s->ids);
    if (!entries || !s->ids) {
        free(entries);
        kvq_special_done(s);
        return false;
    }
    (void)collect(v, with, without, entries);
    qsort(entries, s->n, sizeof *entries, compare_entries);
    for (size_t i = 0; i < s->n; i++) {
        s->ids[i] = entries[i].id;
        if (entries[i].text.n_bytes > s->longest_bytes) s->longest_bytes = entries[i].text.n_bytes;
        s->first[(uint8_t)entries[i].text.bytes[0] + 1]++;
    }
    for (int b = 0; b < 256; b++) s->first[b + 1] += s->first[b];
    free(entries);
    return true;
}

void kvq_special_done(kvq_special *s) {
    free(s->ids);
    *s = (kvq_special){0};
}

/* ---- finding ----------------------------------------------------------------------------------------------------- */

/* The first of ids[lo .. hi), which agree in their first `depth` bytes and are longer, whose next byte is at least
 * `byte`. */
static size_t lower_bound(const kvq_special *s, const kvq_vocab *v, size_t lo, size_t hi, size_t depth, unsigned byte) {
    while (lo < hi) {
        size_t middle = lo + (hi - lo) / 2;
        if ((uint8_t)v->texts[s->ids[middle]].bytes[depth] < byte)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo;
}

/* Follows the text from p through the set. Marks the lengths of the tokens passed in seen (unless NULL) and returns the
 * one of `length` bytes, or -1. */
static int follow(const kvq_special *s, const kvq_vocab *v, const char *p, size_t n_bytes, size_t length, bool *seen) {
    size_t lo = s->first[(uint8_t)p[0]], hi = s->first[(uint8_t)p[0] + 1];
    for (size_t depth = 1; lo < hi; depth++) {
        if (v->texts[s->ids[lo]].n_bytes == depth) { /* the shortest of those that agree stands first */
            if (seen) seen[depth] = true;
            if (depth == length) return s->ids[lo];
            lo++;
        }
        if (depth == n_bytes) break;
        hi = lower_bound(s, v, lo, hi, depth, (unsigned)(uint8_t)p[depth] + 1);
        lo = lower_bound(s, v, lo, hi, depth, (uint8_t)p[depth]);
    }
    return -1;
}

/* ---- cutting ----------------------------------------------------------------------------------------------------- */

typedef struct fragments {
    kvq_fragment *data;
    size_t n, capacity;
} fragments;

static bool push(fragments *f, kvq_fragment fragment) {
    if (fragment.id < 0 && fragment.n_bytes == 0) return true;
    if (f->n == f->capacity) {
        size_t wanted = f->capacity ? f->capacity * 2 : 16;
        kvq_fragment *bigger = realloc(f->data, wanted * sizeof *bigger);
        if (!bigger) return false;
        f->data = bigger;
        f->capacity = wanted;
    }
    f->data[f->n++] = fragment;
    return true;
}

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Cuts the tokens of `length` bytes out of one stretch of text. */
static bool cut_stretch(const kvq_special *s, const kvq_vocab *v, const char *text, kvq_fragment stretch, size_t length,
                        fragments *out) {
    size_t start = stretch.offset, end = stretch.offset + stretch.n_bytes;
    for (size_t at = start; at < end && end - at >= length;) {
        int id = follow(s, v, text + at, end - at, length, NULL);
        if (id < 0) {
            at++;
            continue;
        }
        size_t left_end = at;
        if (v->attributes[id] & KVQ_TOKEN_STRIPS_LEFT)
            while (left_end > start && is_space(text[left_end - 1])) left_end--;
        if (!push(out, (kvq_fragment){start, left_end - start, -1}) || !push(out, (kvq_fragment){at, length, id}))
            return false;
        at += length;
        if (v->attributes[id] & KVQ_TOKEN_STRIPS_RIGHT)
            while (at < end && is_space(text[at])) at++;
        start = at;
    }
    return push(out, (kvq_fragment){start, end - start, -1});
}

static bool cut_length(const kvq_special *s, const kvq_vocab *v, const char *text, size_t length, fragments *f) {
    fragments out = {0};
    for (size_t i = 0; i < f->n; i++) {
        bool done = f->data[i].id >= 0 ? push(&out, f->data[i]) : cut_stretch(s, v, text, f->data[i], length, &out);
        if (!done) {
            free(out.data);
            return false;
        }
    }
    free(f->data);
    *f = out;
    return true;
}

/* seen[length] becomes true for the lengths of tokens that occur; NULL: no memory. */
static bool *find_lengths(const kvq_special *s, const kvq_vocab *v, const char *text, size_t n_bytes) {
    bool *seen = calloc(s->longest_bytes + 1, sizeof *seen);
    for (size_t at = 0; seen && at < n_bytes; at++) (void)follow(s, v, text + at, n_bytes - at, 0, seen);
    return seen;
}

bool kvq_special_cut(const kvq_special *s, const kvq_vocab *v, const char *text, size_t n_bytes, kvq_fragment **ret,
                     size_t *ret_n) {
    fragments f = {0};
    bool *seen = find_lengths(s, v, text, n_bytes);
    bool done = seen && push(&f, (kvq_fragment){0, n_bytes, -1});
    for (size_t length = s->longest_bytes; done && length > 0; length--)
        if (seen[length]) done = cut_length(s, v, text, length, &f);
    free(seen);
    if (!done) {
        free(f.data);
        return false;
    }
    *ret = f.data;
    *ret_n = f.n;
    return true;
}
