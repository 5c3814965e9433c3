/* template_value.c: memory of a run, its limits, and values: making, comparing, hashing, iterating. Called by every
 * file of the template interpreter. Values are passed by copy and never change once a template can see them; strings
 * share bytes. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"
#include "template_internal.h"

enum { CHUNK_BYTES = 64 << 10, SMALL_DICT = 8 };

const kvq_tpl_kind_info kvq_tpl_kind_infos[KVQ_TPL_KIND_COUNT] = {
#define KVQ_X(kind, name, has_length, iterable, indexed) {name, has_length, iterable, indexed},
    KVQ_TPL_KINDS(KVQ_X)
#undef KVQ_X
};

/* ---- failing and limits ---------------------------------------------------------------------------------------- */

void kvq_tpl_fail(kvq_tpl_run *r, kvq_status code, const char *format, ...) {
    char text[KVQ_ERROR_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0) text[0] = '\0';
    r->status = kvq_fail(r->err, code, "chat template, line %d: %s", r->line, text);
    longjmp(r->failed, 1);
}

void kvq_tpl_fail_undefined(kvq_tpl_run *r, kvq_tpl_value u) {
    const kvq_tpl_string *name = u.as.text;
    int n = name->n_bytes > 200 ? 200 : (int)name->n_bytes;
    const char *owner = u.owner == KVQ_TPL_NONE ? "None" : kvq_tpl_kind_infos[u.owner].name;
    switch (u.flag) {
    case KVQ_TPL_BY_NAME:
        kvq_tpl_fail(r, KVQ_BAD_FILE, "'%.*s' is undefined", n, name->bytes);
    case KVQ_TPL_BY_ATTRIBUTE:
        kvq_tpl_fail(r, KVQ_BAD_FILE, "'%s object' has no attribute '%.*s'", owner, n, name->bytes);
    case KVQ_TPL_BY_ELEMENT:
        kvq_tpl_fail(r, KVQ_BAD_FILE, "%s object has no element %.*s", owner, n, name->bytes);
    default:
        kvq_tpl_fail(r, KVQ_BAD_FILE, "%.*s", n, name->bytes);
    }
}

void kvq_tpl_charge(kvq_tpl_run *r, size_t steps) {
    if (steps > (size_t)(KVQ_TPL_MAX_STEPS - r->steps))
        kvq_tpl_fail(r, KVQ_NO_SPACE, "took more than %d steps", KVQ_TPL_MAX_STEPS);
    r->steps += (int64_t)steps;
}

void kvq_tpl_enter(kvq_tpl_run *r) {
    if (r->depth >= KVQ_TPL_MAX_DEPTH) kvq_tpl_fail(r, KVQ_NO_SPACE, "nested more than %d deep", KVQ_TPL_MAX_DEPTH);
    r->depth++;
}

void kvq_tpl_leave(kvq_tpl_run *r) {
    r->depth--;
}

static kvq_tpl_chunk *add_chunk(kvq_tpl_run *r, size_t n_bytes) {
    bool own = n_bytes > CHUNK_BYTES / 4;
    size_t want = own ? n_bytes : CHUNK_BYTES;
    if (want > KVQ_TPL_MAX_ARENA_BYTES - r->arena_bytes)
        kvq_tpl_fail(r, KVQ_NO_SPACE, "needs more than %zu MiB of memory", KVQ_TPL_MAX_ARENA_BYTES >> 20);
    kvq_tpl_chunk *c = malloc(sizeof *c + want);
    if (!c) kvq_tpl_fail(r, KVQ_NO_MEMORY, "no memory for %zu bytes", want);
    r->arena_bytes += want;
    c->n_bytes = want;
    c->used_bytes = 0;
    /* A large object gets a chunk of its own behind the one being filled, which goes on being filled. */
    kvq_tpl_chunk **at = own && r->chunks ? &r->chunks->next : &r->chunks;
    c->next = *at;
    *at = c;
    return c;
}

void *kvq_tpl_alloc(kvq_tpl_run *r, size_t n_bytes) {
    if (n_bytes > KVQ_TPL_MAX_ARENA_BYTES)
        kvq_tpl_fail(r, KVQ_NO_SPACE, "needs more than %zu MiB of memory", KVQ_TPL_MAX_ARENA_BYTES >> 20);
    n_bytes = (n_bytes + 15) & ~(size_t)15;
    kvq_tpl_chunk *c = r->chunks;
    if (!c || n_bytes > c->n_bytes - c->used_bytes) c = add_chunk(r, n_bytes);
    void *p = (char *)(c + 1) + c->used_bytes;
    c->used_bytes += n_bytes;
    memset(p, 0, n_bytes);
    return p;
}

void *kvq_tpl_alloc_array(kvq_tpl_run *r, size_t n, size_t item_bytes) {
    size_t n_bytes;
    if (__builtin_mul_overflow(n, item_bytes, &n_bytes)) n_bytes = SIZE_MAX;
    return kvq_tpl_alloc(r, n_bytes);
}

void kvq_tpl_free_chunks(kvq_tpl_chunk *c) {
    while (c) {
        kvq_tpl_chunk *next = c->next;
        free(c);
        c = next;
    }
}

/* ---- writing text ---------------------------------------------------------------------------------------------- */

/* Room for n more bytes and a terminator. */
static char *reserve(kvq_tpl_run *r, size_t n) {
    if (n > KVQ_TPL_MAX_OUTPUT_BYTES - r->n_out)
        kvq_tpl_fail(r, KVQ_NO_SPACE, "writes more than %zu MiB of text", KVQ_TPL_MAX_OUTPUT_BYTES >> 20);
    kvq_tpl_charge(r, n / 64);
    if (r->n_out + n < r->out_capacity) return r->out + r->n_out;
    size_t capacity = r->out_capacity ? r->out_capacity : 4096;
    while (capacity <= r->n_out + n) capacity *= 2;
    char *p = malloc(capacity);
    if (!p) kvq_tpl_fail(r, KVQ_NO_MEMORY, "no memory for %zu bytes", capacity);
    if (r->n_out) memcpy(p, r->out, r->n_out);
    free(r->out);
    r->out = p;
    r->out_capacity = capacity;
    return p + r->n_out;
}

void kvq_tpl_put(kvq_tpl_run *r, const char *bytes, size_t n) {
    if (n == 0) return;
    memcpy(reserve(r, n), bytes, n);
    r->n_out += n;
}

void kvq_tpl_put_text(kvq_tpl_run *r, const char *terminated) {
    kvq_tpl_put(r, terminated, strlen(terminated));
}

void kvq_tpl_put_char(kvq_tpl_run *r, char c) {
    kvq_tpl_put(r, &c, 1);
}

void kvq_tpl_put_fill(kvq_tpl_run *r, const kvq_tpl_string *fill, int64_t n) {
    size_t n_bytes;
    if (n <= 0 || fill->n_bytes == 0) return;
    if (__builtin_mul_overflow((size_t)n, fill->n_bytes, &n_bytes)) n_bytes = SIZE_MAX;
    char *at = reserve(r, n_bytes);
    for (int64_t i = 0; i < n; i++) memcpy(at + (size_t)i * fill->n_bytes, fill->bytes, fill->n_bytes);
    r->n_out += n_bytes;
}

kvq_tpl_value kvq_tpl_take(kvq_tpl_run *r, size_t mark) {
    size_t n = r->n_out - mark;
    kvq_tpl_value v = n ? kvq_tpl_copy_text(r, r->out + mark, n) : kvq_tpl_empty;
    r->n_out = mark;
    return v;
}

/* ---- making values --------------------------------------------------------------------------------------------- */

static const kvq_tpl_string empty_string = {"", 0, 0};
const kvq_tpl_value kvq_tpl_missing = {.kind = KVQ_TPL_MISSING};
const kvq_tpl_value kvq_tpl_none = {.kind = KVQ_TPL_NONE};
const kvq_tpl_value kvq_tpl_empty = {.kind = KVQ_TPL_STRING, .as.text = &empty_string};

kvq_tpl_value kvq_tpl_bool(bool b) {
    return (kvq_tpl_value){.kind = KVQ_TPL_BOOL, .as.boolean = b};
}

kvq_tpl_value kvq_tpl_int(int64_t i) {
    return (kvq_tpl_value){.kind = KVQ_TPL_INT, .as.integer = i};
}

kvq_tpl_value kvq_tpl_real(double d) {
    return (kvq_tpl_value){.kind = KVQ_TPL_FLOAT, .as.real = d};
}

kvq_tpl_value kvq_tpl_string_value(const kvq_tpl_string *s) {
    return (kvq_tpl_value){.kind = KVQ_TPL_STRING, .as.text = s};
}

kvq_tpl_value kvq_tpl_text(kvq_tpl_run *r, const char *bytes, size_t n_bytes) {
    if (n_bytes == 0) return kvq_tpl_empty;
    kvq_tpl_charge(r, n_bytes / 64);
    kvq_tpl_string *s = kvq_tpl_alloc(r, sizeof *s);
    *s = (kvq_tpl_string){bytes, n_bytes, kvq_tpl_count_chars(bytes, n_bytes)};
    return kvq_tpl_string_value(s);
}

kvq_tpl_value kvq_tpl_copy_text(kvq_tpl_run *r, const char *bytes, size_t n_bytes) {
    if (n_bytes == 0) return kvq_tpl_empty;
    char *copy = kvq_tpl_alloc(r, n_bytes);
    memcpy(copy, bytes, n_bytes);
    return kvq_tpl_text(r, copy, n_bytes);
}

kvq_tpl_value kvq_tpl_literal(kvq_tpl_run *r, const char *terminated) {
    return kvq_tpl_text(r, terminated, strlen(terminated));
}

kvq_tpl_value kvq_tpl_undefined(int reason, kvq_tpl_kind owner, const kvq_tpl_string *name) {
    return (kvq_tpl_value){
        .kind = KVQ_TPL_UNDEFINED, .flag = (uint8_t)reason, .owner = (uint8_t)owner, .as.text = name};
}

kvq_tpl_value kvq_tpl_undefined_hint(kvq_tpl_run *r, const char *hint) {
    return kvq_tpl_undefined(KVQ_TPL_BY_HINT, KVQ_TPL_NONE, kvq_tpl_literal(r, hint).as.text);
}

const char *kvq_tpl_type_name(kvq_tpl_value v) {
    if (v.kind == KVQ_TPL_STRING && v.flag) return "Markup";
    if (v.kind == KVQ_TPL_VIEW)
        return v.flag == KVQ_TPL_ITEMS ? "dict_items" : v.flag == KVQ_TPL_KEYS ? "dict_keys" : "dict_values";
    return kvq_tpl_kind_infos[v.kind].name;
}

/* ---- lists ----------------------------------------------------------------------------------------------------- */

kvq_tpl_list *kvq_tpl_list_new(kvq_tpl_run *r, size_t capacity) {
    kvq_tpl_list *l = kvq_tpl_alloc(r, sizeof *l);
    if (capacity) l->items = kvq_tpl_alloc_array(r, capacity, sizeof *l->items);
    l->capacity = capacity;
    return l;
}

void kvq_tpl_list_push(kvq_tpl_run *r, kvq_tpl_list *l, kvq_tpl_value v) {
    if (l->n == l->capacity) {
        size_t capacity = l->capacity ? l->capacity * 2 : 4;
        kvq_tpl_value *items = kvq_tpl_alloc_array(r, capacity, sizeof *items);
        if (l->n) memcpy(items, l->items, l->n * sizeof *items);
        l->items = items;
        l->capacity = capacity;
    }
    l->items[l->n++] = v;
}

kvq_tpl_value kvq_tpl_list_value(kvq_tpl_list *l) {
    return (kvq_tpl_value){.kind = KVQ_TPL_LIST, .as.list = l};
}

kvq_tpl_value kvq_tpl_tuple_value(kvq_tpl_list *l) {
    return (kvq_tpl_value){.kind = KVQ_TPL_TUPLE, .as.list = l};
}

kvq_tpl_value kvq_tpl_pair(kvq_tpl_run *r, kvq_tpl_value a, kvq_tpl_value b) {
    kvq_tpl_list *l = kvq_tpl_list_new(r, 2);
    kvq_tpl_list_push(r, l, a);
    kvq_tpl_list_push(r, l, b);
    return kvq_tpl_tuple_value(l);
}

/* ---- comparing ------------------------------------------------------------------------------------------------- */

bool kvq_tpl_is_integer(kvq_tpl_value v) {
    return v.kind == KVQ_TPL_BOOL || v.kind == KVQ_TPL_INT;
}

bool kvq_tpl_is_number(kvq_tpl_value v) {
    return kvq_tpl_is_integer(v) || v.kind == KVQ_TPL_FLOAT;
}

int64_t kvq_tpl_as_int(kvq_tpl_value v) {
    return v.kind == KVQ_TPL_BOOL ? v.as.boolean : v.as.integer;
}

double kvq_tpl_as_real(kvq_tpl_value v) {
    return v.kind == KVQ_TPL_FLOAT ? v.as.real : (double)kvq_tpl_as_int(v);
}

/* long double holds every int64 and every double exactly on the machines we know, so the comparison is Python's. */
static long double exact(kvq_tpl_value v) {
    return v.kind == KVQ_TPL_FLOAT ? (long double)v.as.real : (long double)kvq_tpl_as_int(v);
}

bool kvq_tpl_string_equal(const kvq_tpl_string *a, const kvq_tpl_string *b) {
    return a == b || (a->n_bytes == b->n_bytes && memcmp(a->bytes, b->bytes, a->n_bytes) == 0);
}

bool kvq_tpl_string_is(const kvq_tpl_string *a, const char *terminated) {
    return strlen(terminated) == a->n_bytes && memcmp(a->bytes, terminated, a->n_bytes) == 0;
}

/* The order of code points is the order of UTF-8's bytes. */
static int string_order(kvq_tpl_run *r, const kvq_tpl_string *a, const kvq_tpl_string *b) {
    size_t n = a->n_bytes < b->n_bytes ? a->n_bytes : b->n_bytes;
    kvq_tpl_charge(r, n / 64);
    int order = memcmp(a->bytes, b->bytes, n);
    if (order != 0) return order;
    return (a->n_bytes > b->n_bytes) - (a->n_bytes < b->n_bytes);
}

bool kvq_tpl_same(kvq_tpl_run *r, kvq_tpl_value a, kvq_tpl_value b) {
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case KVQ_TPL_NONE:
        return true;
    case KVQ_TPL_BOOL:
        return a.as.boolean == b.as.boolean;
    case KVQ_TPL_INT:
        return a.as.integer == b.as.integer; /* as small integers are in CPython */
    case KVQ_TPL_FLOAT:
        return false;
    case KVQ_TPL_STRING:
        kvq_tpl_charge(r, a.as.text->n_bytes / 64);
        return kvq_tpl_string_equal(a.as.text, b.as.text);
    default:
        return a.as.pointer == b.as.pointer;
    }
}

static bool list_equal(kvq_tpl_run *r, const kvq_tpl_list *a, const kvq_tpl_list *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++)
        if (!kvq_tpl_equal(r, a->items[i], b->items[i])) return false;
    return true;
}

static bool dict_equal(kvq_tpl_run *r, const kvq_tpl_dict *a, const kvq_tpl_dict *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++) {
        kvq_tpl_value other;
        if (!kvq_tpl_dict_find(r, b, a->entries[i].key, &other)) return false;
        if (!kvq_tpl_equal(r, a->entries[i].value, other)) return false;
    }
    return true;
}

static bool range_equal(const kvq_tpl_range *a, const kvq_tpl_range *b) {
    return a->n == b->n && (a->n == 0 || (a->start == b->start && (a->n == 1 || a->step == b->step)));
}

static bool equal_within_kind(kvq_tpl_run *r, kvq_tpl_value a, kvq_tpl_value b) {
    switch (a.kind) {
    case KVQ_TPL_UNDEFINED:
    case KVQ_TPL_NONE:
        return true;
    case KVQ_TPL_STRING:
        if (a.as.text->n_bytes == b.as.text->n_bytes) kvq_tpl_charge(r, a.as.text->n_bytes / 64);
        return kvq_tpl_string_equal(a.as.text, b.as.text);
    case KVQ_TPL_LIST:
    case KVQ_TPL_TUPLE:
        return list_equal(r, a.as.list, b.as.list);
    case KVQ_TPL_DICT:
        return dict_equal(r, a.as.dict, b.as.dict);
    case KVQ_TPL_RANGE:
        return range_equal(a.as.range, b.as.range);
    default:
        return a.as.pointer == b.as.pointer;
    }
}

bool kvq_tpl_equal(kvq_tpl_run *r, kvq_tpl_value a, kvq_tpl_value b) {
    kvq_tpl_charge(r, 1);
    if (kvq_tpl_is_number(a) && kvq_tpl_is_number(b)) return exact(a) == exact(b);
    if (a.kind != b.kind) return false;
    kvq_tpl_enter(r);
    bool equal = equal_within_kind(r, a, b);
    kvq_tpl_leave(r);
    return equal;
}

static bool in_order(kvq_tpl_order order, int sign) {
    switch (order) {
    case KVQ_TPL_LT:
        return sign < 0;
    case KVQ_TPL_LE:
        return sign <= 0;
    case KVQ_TPL_GT:
        return sign > 0;
    default:
        return sign >= 0;
    }
}

static bool compare_numbers(kvq_tpl_order order, long double a, long double b) {
    switch (order) {
    case KVQ_TPL_LT:
        return a < b;
    case KVQ_TPL_LE:
        return a <= b;
    case KVQ_TPL_GT:
        return a > b;
    default:
        return a >= b;
    }
}

/* The first pair that differs decides; only that pair is ordered. */
static bool compare_lists(kvq_tpl_run *r, kvq_tpl_order order, const kvq_tpl_list *a, const kvq_tpl_list *b) {
    for (size_t i = 0; i < a->n && i < b->n; i++)
        if (!kvq_tpl_equal(r, a->items[i], b->items[i])) return kvq_tpl_compare(r, order, a->items[i], b->items[i]);
    return in_order(order, (a->n > b->n) - (a->n < b->n));
}

bool kvq_tpl_compare(kvq_tpl_run *r, kvq_tpl_order order, kvq_tpl_value a, kvq_tpl_value b) {
    static const char *const signs[] = {"<", "<=", ">", ">="};
    kvq_tpl_charge(r, 1);
    if (kvq_tpl_is_number(a) && kvq_tpl_is_number(b)) return compare_numbers(order, exact(a), exact(b));
    if (a.kind == KVQ_TPL_STRING && b.kind == KVQ_TPL_STRING)
        return in_order(order, string_order(r, a.as.text, b.as.text));
    if (a.kind == b.kind && (a.kind == KVQ_TPL_LIST || a.kind == KVQ_TPL_TUPLE)) {
        kvq_tpl_enter(r);
        bool yes = compare_lists(r, order, a.as.list, b.as.list);
        kvq_tpl_leave(r);
        return yes;
    }
    if (a.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, a);
    if (b.kind == KVQ_TPL_UNDEFINED) kvq_tpl_fail_undefined(r, b);
    kvq_tpl_fail(r, KVQ_BAD_FILE, "'%s' not supported between '%s' and '%s'", signs[order], kvq_tpl_type_name(a),
                 kvq_tpl_type_name(b));
}

/* ---- dicts ----------------------------------------------------------------------------------------------------- */

bool kvq_tpl_hashable(kvq_tpl_run *r, kvq_tpl_value v) {
    if (v.kind == KVQ_TPL_LIST || v.kind == KVQ_TPL_DICT) return false;
    if (v.kind == KVQ_TPL_VIEW) return v.flag == KVQ_TPL_VALUES;
    if (v.kind != KVQ_TPL_TUPLE) return true;
    bool hashable = true;
    kvq_tpl_enter(r);
    kvq_tpl_charge(r, v.as.list->n);
    for (size_t i = 0; i < v.as.list->n && hashable; i++) hashable = kvq_tpl_hashable(r, v.as.list->items[i]);
    kvq_tpl_leave(r);
    return hashable;
}

static uint64_t hash_bytes(kvq_tpl_run *r, const char *bytes, size_t n) {
    kvq_tpl_charge(r, n / 16);
    return kvq_hash(r->hash_seed, bytes, n);
}

/* Equal numbers of any kind hash alike. */
static uint64_t hash_number(const kvq_tpl_run *r, kvq_tpl_value v) {
    double d = kvq_tpl_as_real(v);
    if (v.kind != KVQ_TPL_FLOAT || (d >= -9.2e18 && d <= 9.2e18 && d == (double)(int64_t)d))
        return kvq_hash_mix(r->hash_seed + 1, (uint64_t)(v.kind == KVQ_TPL_FLOAT ? (int64_t)d : kvq_tpl_as_int(v)));
    uint64_t bits;
    memcpy(&bits, &d, sizeof bits);
    return kvq_hash_mix(r->hash_seed + 2, bits);
}

static uint64_t hash_value(kvq_tpl_run *r, kvq_tpl_value v) {
    if (kvq_tpl_is_number(v)) return hash_number(r, v);
    if (v.kind == KVQ_TPL_STRING) return hash_bytes(r, v.as.text->bytes, v.as.text->n_bytes);
    if (v.kind == KVQ_TPL_NONE || v.kind == KVQ_TPL_UNDEFINED) return kvq_hash_mix(r->hash_seed + 3, v.kind);
    if (v.kind != KVQ_TPL_TUPLE) return kvq_hash_mix(r->hash_seed + 4, (uint64_t)(uintptr_t)v.as.pointer);
    kvq_tpl_enter(r);
    kvq_tpl_charge(r, v.as.list->n);
    uint64_t h = kvq_hash_mix(r->hash_seed + 5, v.as.list->n);
    for (size_t i = 0; i < v.as.list->n; i++) h = kvq_hash_mix(h, hash_value(r, v.as.list->items[i]));
    kvq_tpl_leave(r);
    return h;
}

kvq_tpl_dict *kvq_tpl_dict_new(kvq_tpl_run *r) {
    return kvq_tpl_alloc(r, sizeof(kvq_tpl_dict));
}

kvq_tpl_value kvq_tpl_dict_value(kvq_tpl_dict *d) {
    return (kvq_tpl_value){.kind = KVQ_TPL_DICT, .as.dict = d};
}

static bool entry_is(kvq_tpl_run *r, const kvq_tpl_entry *e, uint64_t hash, kvq_tpl_value key) {
    return e->hash == hash && kvq_tpl_equal(r, e->key, key);
}

static kvq_tpl_entry *find_entry(kvq_tpl_run *r, const kvq_tpl_dict *d, uint64_t hash, kvq_tpl_value key) {
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++)
            if (entry_is(r, &d->entries[i], hash, key)) return &d->entries[i];
        return NULL;
    }
    for (size_t at = hash & (d->n_index - 1); d->index[at]; at = (at + 1) & (d->n_index - 1)) {
        kvq_tpl_charge(r, 1);
        if (entry_is(r, &d->entries[d->index[at] - 1], hash, key)) return &d->entries[d->index[at] - 1];
    }
    return NULL;
}

static void index_entry(kvq_tpl_dict *d, size_t i) {
    size_t at = d->entries[i].hash & (d->n_index - 1);
    while (d->index[at]) at = (at + 1) & (d->n_index - 1);
    d->index[at] = (uint32_t)(i + 1);
}

static void grow_dict(kvq_tpl_run *r, kvq_tpl_dict *d) {
    size_t capacity = d->capacity ? d->capacity * 2 : 4;
    kvq_tpl_entry *entries = kvq_tpl_alloc_array(r, capacity, sizeof *entries);
    if (d->n) memcpy(entries, d->entries, d->n * sizeof *entries);
    d->entries = entries;
    d->capacity = capacity;
    if (capacity <= SMALL_DICT) return;
    d->n_index = capacity * 2; /* a power of two, at most half full */
    d->index = kvq_tpl_alloc_array(r, d->n_index, sizeof *d->index);
    for (size_t i = 0; i < d->n; i++) index_entry(d, i);
}

void kvq_tpl_dict_set(kvq_tpl_run *r, kvq_tpl_dict *d, kvq_tpl_value key, kvq_tpl_value v) {
    if (!kvq_tpl_hashable(r, key)) kvq_tpl_fail(r, KVQ_BAD_FILE, "unhashable type: '%s'", kvq_tpl_type_name(key));
    uint64_t hash = hash_value(r, key);
    kvq_tpl_entry *e = find_entry(r, d, hash, key);
    if (e) {
        e->value = v;
        return;
    }
    if (d->n == d->capacity) grow_dict(r, d);
    d->entries[d->n++] = (kvq_tpl_entry){key, v, hash};
    if (d->index) index_entry(d, d->n - 1);
}

bool kvq_tpl_dict_find(kvq_tpl_run *r, const kvq_tpl_dict *d, kvq_tpl_value key, kvq_tpl_value *ret) {
    if (!kvq_tpl_hashable(r, key)) return false;
    const kvq_tpl_entry *e = find_entry(r, d, hash_value(r, key), key);
    if (e) *ret = e->value;
    return e != NULL;
}

bool kvq_tpl_dict_find_text(kvq_tpl_run *r, const kvq_tpl_dict *d, const kvq_tpl_string *key, kvq_tpl_value *ret) {
    return kvq_tpl_dict_find(r, d, kvq_tpl_string_value(key), ret);
}

void kvq_tpl_dict_merge(kvq_tpl_run *r, kvq_tpl_dict *d, kvq_tpl_value from) {
    if (from.kind == KVQ_TPL_DICT) {
        for (size_t i = 0; i < from.as.dict->n; i++)
            kvq_tpl_dict_set(r, d, from.as.dict->entries[i].key, from.as.dict->entries[i].value);
        return;
    }
    kvq_tpl_value item;
    for (kvq_tpl_iterator *it = kvq_tpl_iterate(r, from); kvq_tpl_next(r, it, &item);) {
        kvq_tpl_list *pair = kvq_tpl_collect(r, item);
        if (pair->n != 2) kvq_tpl_fail(r, KVQ_BAD_FILE, "a dict is made of pairs; got %zu items", pair->n);
        kvq_tpl_dict_set(r, d, pair->items[0], pair->items[1]);
    }
}

/* ---- questions ------------------------------------------------------------------------------------------------- */

int64_t kvq_tpl_length(kvq_tpl_run *r, kvq_tpl_value v) {
    switch (v.kind) {
    case KVQ_TPL_UNDEFINED:
        return 0;
    case KVQ_TPL_STRING:
        return (int64_t)v.as.text->n_chars;
    case KVQ_TPL_LIST:
    case KVQ_TPL_TUPLE:
        return (int64_t)v.as.list->n;
    case KVQ_TPL_DICT:
    case KVQ_TPL_VIEW:
        return (int64_t)v.as.dict->n;
    case KVQ_TPL_RANGE:
        return v.as.range->n;
    case KVQ_TPL_LOOP:
        return kvq_tpl_loop_length(r, v.as.loop);
    default:
        kvq_tpl_fail(r, KVQ_BAD_FILE, "object of type '%s' has no length", kvq_tpl_type_name(v));
    }
}

bool kvq_tpl_truth(kvq_tpl_run *r, kvq_tpl_value v) {
    switch (v.kind) {
    case KVQ_TPL_NONE:
        return false;
    case KVQ_TPL_BOOL:
        return v.as.boolean;
    case KVQ_TPL_INT:
        return v.as.integer != 0;
    case KVQ_TPL_FLOAT:
        return v.as.real != 0;
    default:
        return !kvq_tpl_kind_infos[v.kind].has_length || kvq_tpl_length(r, v) != 0;
    }
}

bool kvq_tpl_contains(kvq_tpl_run *r, kvq_tpl_value container, kvq_tpl_value v) {
    kvq_tpl_value item;
    if (container.kind == KVQ_TPL_STRING) {
        if (v.kind != KVQ_TPL_STRING)
            kvq_tpl_fail(r, KVQ_BAD_FILE, "'in <string>' requires a string on its left, not '%s'",
                         kvq_tpl_type_name(v));
        return kvq_tpl_find(r, container.as.text, v.as.text, 0, container.as.text->n_bytes) != SIZE_MAX;
    }
    if (container.kind == KVQ_TPL_DICT || (container.kind == KVQ_TPL_VIEW && container.flag == KVQ_TPL_KEYS)) {
        if (!kvq_tpl_hashable(r, v)) kvq_tpl_fail(r, KVQ_BAD_FILE, "unhashable type: '%s'", kvq_tpl_type_name(v));
        return kvq_tpl_dict_find(r, container.as.dict, v, &item);
    }
    for (kvq_tpl_iterator *it = kvq_tpl_iterate(r, container); kvq_tpl_next(r, it, &item);)
        if (kvq_tpl_equal(r, item, v)) return true;
    return false;
}

/* ---- iterating ------------------------------------------------------------------------------------------------- */

static bool next_char(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret) {
    const kvq_tpl_string *s = it->source.as.text;
    if (it->at >= s->n_bytes) return false;
    size_t n = kvq_tpl_char_bytes(s->bytes + it->at);
    *ret = kvq_tpl_text(r, s->bytes + it->at, n);
    ret->flag = 0;
    it->at += n;
    return true;
}

static bool next_item(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret) {
    (void)r;
    if (it->at >= it->source.as.list->n) return false;
    *ret = it->source.as.list->items[it->at++];
    return true;
}

static bool next_entry(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret) {
    if (it->at >= it->source.as.dict->n) return false;
    const kvq_tpl_entry *e = &it->source.as.dict->entries[it->at++];
    if (it->source.kind == KVQ_TPL_DICT || it->source.flag == KVQ_TPL_KEYS)
        *ret = e->key;
    else
        *ret = it->source.flag == KVQ_TPL_VALUES ? e->value : kvq_tpl_pair(r, e->key, e->value);
    return true;
}

int64_t kvq_tpl_range_at(const kvq_tpl_range *range, int64_t i) {
    return (int64_t)((uint64_t)range->start + (uint64_t)i * (uint64_t)range->step); /* a stop may lie beyond 64 bits */
}

static bool next_number(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret) {
    (void)r;
    if ((int64_t)it->at >= it->source.as.range->n) return false;
    *ret = kvq_tpl_int(kvq_tpl_range_at(it->source.as.range, (int64_t)it->at++));
    return true;
}

static bool next_of_loop(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret) {
    return kvq_tpl_loop_next(r, it->source.as.loop, ret);
}

static bool next_nothing(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret) {
    (void)r, (void)it, (void)ret;
    return false;
}

kvq_tpl_iterator *kvq_tpl_iterate(kvq_tpl_run *r, kvq_tpl_value v) {
    static bool (*const nexts[KVQ_TPL_KIND_COUNT])(kvq_tpl_run *, kvq_tpl_iterator *, kvq_tpl_value *) = {
        [KVQ_TPL_UNDEFINED] = next_nothing, [KVQ_TPL_STRING] = next_char, [KVQ_TPL_LIST] = next_item,
        [KVQ_TPL_TUPLE] = next_item,        [KVQ_TPL_DICT] = next_entry,  [KVQ_TPL_VIEW] = next_entry,
        [KVQ_TPL_RANGE] = next_number,      [KVQ_TPL_LOOP] = next_of_loop};
    if (v.kind == KVQ_TPL_ITERATOR) return v.as.iterator;
    if (!nexts[v.kind]) kvq_tpl_fail(r, KVQ_BAD_FILE, "'%s' object is not iterable", kvq_tpl_type_name(v));
    kvq_tpl_iterator *it = kvq_tpl_iterator_new(r, nexts[v.kind], NULL, NULL);
    it->source = v;
    return it;
}

kvq_tpl_iterator *kvq_tpl_iterator_new(kvq_tpl_run *r, bool (*next)(kvq_tpl_run *, kvq_tpl_iterator *, kvq_tpl_value *),
                                       void *state, kvq_tpl_iterator *inner) {
    kvq_tpl_iterator *it = kvq_tpl_alloc(r, sizeof *it);
    it->next = next;
    it->state = state;
    it->inner = inner;
    return it;
}

kvq_tpl_value kvq_tpl_iterator_value(kvq_tpl_iterator *it) {
    return (kvq_tpl_value){.kind = KVQ_TPL_ITERATOR, .as.iterator = it};
}

/* Filters stand on each other's iterators, so a chain of them recurses. */
bool kvq_tpl_next(kvq_tpl_run *r, kvq_tpl_iterator *it, kvq_tpl_value *ret) {
    kvq_tpl_charge(r, 1);
    kvq_tpl_enter(r);
    bool more = it->next(r, it, ret);
    kvq_tpl_leave(r);
    return more;
}

kvq_tpl_list *kvq_tpl_collect(kvq_tpl_run *r, kvq_tpl_value v) {
    kvq_tpl_list *l = kvq_tpl_list_new(r, 0);
    kvq_tpl_value item;
    for (kvq_tpl_iterator *it = kvq_tpl_iterate(r, v); kvq_tpl_next(r, it, &item);) kvq_tpl_list_push(r, l, item);
    return l;
}
