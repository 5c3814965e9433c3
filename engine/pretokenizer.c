/* pretokenizer.c: walks the table in pretokenizers.def: a text is one piece at first, each step cuts every piece
 * further. Called by bpe.c. The only file that includes PCRE2. An expression sees one piece at a time and nothing
 * around it, so that (?!\S) holds at the end of a piece, whatever comes after. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <utf8proc.h>

#include "pretokenizer.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

#define MAX_STEPS 6
#define JIT_STACK_START_BYTES (32 * 1024)
#define JIT_STACK_MOST_BYTES (1024 * 1024)

/* Cuts one piece, from its start, by a rule; the end of the piece itself is added by the caller. False: no memory. */
typedef bool rule_fn(const char *text, int start, int end, kvq_pieces *out);
static bool group_numbers(const char *text, int start, int end, kvq_pieces *out);
static bool group_digits(const char *text, int start, int end, kvq_pieces *out);

typedef struct step {
    const char *expression; /* or */
    rule_fn *rule;
} step;

/* ---- the table --------------------------------------------------------------------------------------------------- */

#include "pretokenizers.def" /* its macros */

enum way {
#define WAY(name, ...) WAY_##name,
#include "pretokenizers.def"
#undef WAY
};

static const step ways[][MAX_STEPS] = {
/* clang-format off */
#define R(text) {text, NULL}
#define GROUP_NUMBERS {NULL, group_numbers}
#define GROUP_DIGITS {NULL, group_digits}
#define WAY(name, ...) [WAY_##name] = {__VA_ARGS__},
#include "pretokenizers.def"
#undef WAY
#undef R
    /* clang-format on */
};

enum {
    IGNORE_MERGES = KVQ_PRE_IGNORE_MERGES,
    ADD_BOS = KVQ_PRE_ADD_BOS,
    NO_BOS = KVQ_PRE_NO_BOS,
    PLAIN = KVQ_PRE_PLAIN,
    ALWAYS_BOS = KVQ_PRE_ALWAYS_BOS,
    LINE_TOKENS = KVQ_PRE_LINE_TOKENS
};

static const struct {
    const char *name;
    enum way way;
    unsigned flags;
} names[] = {
#define NAME(name, way, flags) {name, WAY_##way, flags},
#include "pretokenizers.def"
#undef NAME
};
#define N_NAMES (sizeof names / sizeof *names)

/* ---- open -------------------------------------------------------------------------------------------------------- */

struct kvq_pretokenizer {
    const step *steps;
    unsigned flags;
    pcre2_code *codes[MAX_STEPS];
};

const char *kvq_pretokenizer_name(size_t i) {
    return i < N_NAMES ? names[i].name : NULL;
}

static kvq_status compile(const char *expression, bool use_jit, pcre2_code **ret, kvq_error *err) {
    int code = 0;
    PCRE2_SIZE at = 0;
    *ret = pcre2_compile((PCRE2_SPTR)expression, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (!*ret) {
        PCRE2_UCHAR text[128] = "";
        (void)pcre2_get_error_message(code, text, sizeof text); /* a cut message is still a message */
        return kvq_fail(err, code == PCRE2_ERROR_HEAP_FAILED ? KVQ_NO_MEMORY : KVQ_INTERNAL,
                        "pre-tokenizer: PCRE2 refuses the expression '%.60s...' at %zu: %s", expression, at, text);
    }
    if (use_jit) (void)pcre2_jit_compile(*ret, PCRE2_JIT_COMPLETE); /* without it the expression is interpreted */
    return KVQ_OK;
}

kvq_status kvq_pretokenizer_open(kvq_text name, bool use_jit, kvq_pretokenizer **ret, kvq_error *err) {
    size_t row = 0;
    while (row < N_NAMES &&
           (strlen(names[row].name) != name.n_bytes || memcmp(names[row].name, name.bytes, name.n_bytes) != 0))
        row++;
    char shown[KVQ_SHOWN_BYTES];
    if (row == N_NAMES)
        return kvq_fail(err, KVQ_UNSUPPORTED, "kvqd does not know the pre-tokenizer '%s'", kvq_text_show(name, shown));
    kvq_pretokenizer *p = calloc(1, sizeof *p);
    if (!p) return kvq_fail(err, KVQ_NO_MEMORY, "no memory for the pre-tokenizer '%s'", names[row].name);
    p->steps = ways[names[row].way];
    p->flags = names[row].flags;
    for (int i = 0; i < MAX_STEPS; i++) {
        kvq_status status =
            p->steps[i].expression ? compile(p->steps[i].expression, use_jit, &p->codes[i], err) : KVQ_OK;
        if (status) {
            kvq_pretokenizer_free(p);
            return status;
        }
    }
    *ret = p;
    return KVQ_OK;
}

void kvq_pretokenizer_free(kvq_pretokenizer *p) {
    if (!p) return;
    for (int i = 0; i < MAX_STEPS; i++) pcre2_code_free(p->codes[i]);
    free(p);
}

unsigned kvq_pretokenizer_flags(const kvq_pretokenizer *p) {
    return p->flags;
}

/* ---- pieces ------------------------------------------------------------------------------------------------------ */

/* Adds a piece that ends at `end`; an empty one is none. */
static bool add_end(kvq_pieces *p, int end) {
    if (end == (p->n ? p->ends[p->n - 1] : 0)) return true;
    if (p->n == p->capacity) {
        size_t wanted = p->capacity ? p->capacity * 2 : 256;
        int *bigger = realloc(p->ends, wanted * sizeof *bigger);
        if (!bigger) return false;
        p->ends = bigger;
        p->capacity = wanted;
    }
    p->ends[p->n++] = end;
    return true;
}

/* The code point at text[at]; the text is decodable. */
static utf8proc_int32_t code_point_at(const char *text, int at, int end, int *ret_n_bytes) {
    utf8proc_int32_t c = 0xFFFD;
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + at, end - at, &c);
    *ret_n_bytes = n > 0 ? (int)n : 1;
    return n > 0 ? c : 0xFFFD;
}

static bool is_number(const char *text, int at, int end, int *ret_n_bytes) {
    utf8proc_category_t category = utf8proc_category(code_point_at(text, at, end, ret_n_bytes));
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
}

static bool is_digit(const char *text, int at, int end, int *ret_n_bytes) {
    (void)end;
    *ret_n_bytes = 1;
    return text[at] >= '0' && text[at] <= '9';
}

typedef bool number_test(const char *text, int at, int end, int *ret_n_bytes);

/* Cuts runs of numbers into threes, counted from the right: 1|234|567. With whole, a cut also stands before a run whose
 * length is a multiple of three; else what precedes a run stays with its first group. */
static bool group_from_right(const char *text, int start, int end, number_test *test, bool whole, kvq_pieces *out) {
    for (int at = start, n_bytes = 0; at < end; at += n_bytes) {
        if (!test(text, at, end, &n_bytes)) continue;
        int run_end = at, n = 0;
        for (int k = 0; run_end < end && test(text, run_end, end, &k); run_end += k) n++;
        if (whole && n % 3 == 0 && !add_end(out, at)) return false;
        for (int k = 0, left = n; at < run_end; at += k) {
            if (left < n && left % 3 == 0 && !add_end(out, at)) return false;
            (void)test(text, at, end, &k);
            left--;
        }
        if (!whole && !add_end(out, run_end)) return false;
        n_bytes = 0;
    }
    return true;
}

static bool group_numbers(const char *text, int start, int end, kvq_pieces *out) {
    return group_from_right(text, start, end, is_number, false, out);
}

static bool group_digits(const char *text, int start, int end, kvq_pieces *out) {
    return group_from_right(text, start, end, is_digit, true, out);
}

/* ---- what an expression sees --------------------------------------------------------------------------------------
 */

/* Characters that PCRE2 must not meet or may not know, and what it sees instead: a character of the same category, of
 * as many bytes, in the same ranges of the table. Surrogates are no characters (PCRE2 takes its text for valid). The
 * rest are those of Unicode 15.0 and 15.1, which PCRE2 knows from 10.43 and 10.44 on (Debian 12 has 10.42) and
 * llama.cpp's tables know: so ids do not depend on the PCRE2 that is installed. */
#define LETTER 0x10330
#define MARK 0x1D167
#define NUMBER 0x1D360
#define PUNCTUATION 0x10100
#define SIGN 0x1F600
/* clang-format off */
static const struct { uint32_t first, last, seen; } stand_ins[] = {
    {0x0CF3, 0x0CF3, 0x0CBC}, {0x0ECE, 0x0ECE, 0x0ECD}, {0x2FFC, 0x2FFF, 0x2FFB}, {0x31EF, 0x31EF, 0x31E3},
    {0xD800, 0xDFFF, 0xE000}, {0x10EFD, 0x10EFF, MARK}, {0x1123F, 0x11240, LETTER}, {0x11241, 0x11241, MARK},
    {0x11B00, 0x11B09, PUNCTUATION}, {0x11F00, 0x11F01, MARK}, {0x11F02, 0x11F02, LETTER}, {0x11F03, 0x11F03, MARK},
    {0x11F04, 0x11F10, LETTER}, {0x11F12, 0x11F33, LETTER}, {0x11F34, 0x11F3A, MARK}, {0x11F3E, 0x11F42, MARK},
    {0x11F43, 0x11F4F, PUNCTUATION}, {0x11F50, 0x11F59, NUMBER}, {0x1342F, 0x1342F, LETTER}, {0x13440, 0x13440, MARK},
    {0x13441, 0x13446, LETTER}, {0x13447, 0x13455, MARK}, {0x1B132, 0x1B132, LETTER}, {0x1B155, 0x1B155, LETTER},
    {0x1D2C0, 0x1D2D3, NUMBER}, {0x1DF25, 0x1DF2A, LETTER}, {0x1E030, 0x1E06D, LETTER}, {0x1E08F, 0x1E08F, MARK},
    {0x1E4D0, 0x1E4EB, LETTER}, {0x1E4EC, 0x1E4EF, MARK}, {0x1E4F0, 0x1E4F9, NUMBER}, {0x1F6DC, 0x1F6DC, SIGN},
    {0x1F774, 0x1F776, SIGN}, {0x1F77B, 0x1F77F, SIGN}, {0x1F7D9, 0x1F7D9, SIGN}, {0x1FA75, 0x1FA77, SIGN},
    {0x1FA87, 0x1FA88, SIGN}, {0x1FAAD, 0x1FAAF, SIGN}, {0x1FABB, 0x1FABD, SIGN}, {0x1FABF, 0x1FABF, SIGN},
    {0x1FACE, 0x1FACF, SIGN}, {0x1FADA, 0x1FADB, SIGN}, {0x1FAE8, 0x1FAE8, SIGN}, {0x1FAF7, 0x1FAF8, SIGN},
    {0x2B739, 0x2B739, 0x2B738}, {0x2EBF0, 0x2EE5D, LETTER}, {0x31350, 0x323AF, LETTER},
};
/* clang-format on */
#define N_STAND_INS (sizeof stand_ins / sizeof *stand_ins)

static uint32_t stand_in_for(uint32_t c) {
    size_t lo = 0, hi = N_STAND_INS;
    while (lo < hi) {
        size_t middle = lo + (hi - lo) / 2;
        if (c > stand_ins[middle].last)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo < N_STAND_INS && c >= stand_ins[lo].first ? stand_ins[lo].seen : c;
}

/* The text as the expressions see it: itself, or a copy with stand-ins in *ret_copy (owned by the caller). NULL: no
 * memory. */
static const char *see(const char *text, int n_bytes, char **ret_copy) {
    *ret_copy = NULL;
    for (int at = 0, n = 1; at < n_bytes; at += n) {
        n = 1;
        if ((uint8_t)text[at] < 0xE0) continue; /* the least stand-in is for U+0CF3, three bytes */
        uint32_t c = 0;
        n = kvq_utf8_get_loose(text + at, (size_t)(n_bytes - at), &c);
        if (n == 0) n = 1;
        uint32_t seen = stand_in_for(c);
        if (seen == c) continue;
        if (!*ret_copy) {
            *ret_copy = malloc((size_t)n_bytes + 4);
            if (!*ret_copy) return NULL;
            memcpy(*ret_copy, text, (size_t)n_bytes);
        }
        (void)kvq_utf8_put(seen, *ret_copy + at); /* as many bytes as c has */
    }
    return *ret_copy ? *ret_copy : text;
}

/* ---- matching ---------------------------------------------------------------------------------------------------- */

typedef struct matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
} matcher;

static void matcher_done(matcher *m) {
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_jit_stack_free(m->stack);
}

static bool matcher_init(matcher *m) {
    *m = (matcher){.data = pcre2_match_data_create(1, NULL), .context = pcre2_match_context_create(NULL)};
    if (!m->data || !m->context) {
        matcher_done(m);
        return false;
    }
    /* Every expression of the table takes steps in proportion to the text, but a long run of spaces is many steps. */
    (void)pcre2_set_match_limit(m->context, UINT32_MAX);
    (void)pcre2_set_depth_limit(m->context, UINT32_MAX);
    m->stack = pcre2_jit_stack_create(JIT_STACK_START_BYTES, JIT_STACK_MOST_BYTES, NULL);
    if (m->stack) pcre2_jit_stack_assign(m->context, NULL, m->stack);
    return true;
}

static int match(const matcher *m, const pcre2_code *code, const char *piece, int n_bytes, int at) {
    /* One capture only: a code with groups returns 0, which is a match too. */
    int n = pcre2_match(code, (PCRE2_SPTR)piece, (PCRE2_SIZE)n_bytes, (PCRE2_SIZE)at, PCRE2_NO_UTF_CHECK, m->data,
                        m->context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT)
        n = pcre2_match(code, (PCRE2_SPTR)piece, (PCRE2_SIZE)n_bytes, (PCRE2_SIZE)at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        m->data, m->context);
    return n;
}

static kvq_status no_memory(kvq_error *err) {
    return kvq_fail(err, KVQ_NO_MEMORY, "no memory to cut a text into words");
}

/* One step of the table over a text. */
typedef struct cutting {
    const char *text;
    int n_bytes;
    kvq_meter meter;
    kvq_pieces *out;
} cutting;

static kvq_status cut_by_expression(const matcher *m, const pcre2_code *code, cutting *c, int start, int end,
                                    kvq_error *err) {
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(m->data);
    for (int at = 0; at < end - start;) {
        int n = match(m, code, c->text + start, end - start, at);
        if (n == PCRE2_ERROR_NOMATCH) break;
        if (n == PCRE2_ERROR_NOMEMORY || n == PCRE2_ERROR_HEAPLIMIT) return no_memory(err);
        if (n < 0 || found[1] <= found[0])
            return kvq_fail(err, KVQ_INTERNAL, "pre-tokenizer: PCRE2 gives up on a text of %d bytes with code %d",
                            end - start, n);
        if (!add_end(c->out, start + (int)found[0]) || !add_end(c->out, start + (int)found[1])) return no_memory(err);
        at = (int)found[1];
        if (!kvq_meter_show(&c->meter, (double)(start + at) / c->n_bytes)) return kvq_meter_stopped(err);
    }
    return KVQ_OK;
}

static kvq_status apply_step(const kvq_pretokenizer *p, int i, const matcher *m, const kvq_pieces *in, cutting *c,
                             kvq_error *err) {
    c->out->n = 0;
    for (size_t k = 0; k < in->n; k++) {
        int start = k ? in->ends[k - 1] : 0;
        kvq_status status = KVQ_OK;
        if (p->codes[i])
            status = cut_by_expression(m, p->codes[i], c, start, in->ends[k], err);
        else if (!p->steps[i].rule(c->text, start, in->ends[k], c->out))
            status = no_memory(err);
        if (status) return status;
        if (!add_end(c->out, in->ends[k])) return no_memory(err);
    }
    return KVQ_OK;
}

static void swap(kvq_pieces *a, kvq_pieces *b) {
    kvq_pieces t = *a;
    *a = *b;
    *b = t;
}

static int count_steps(const kvq_pretokenizer *p) {
    int n = 0;
    while (n < MAX_STEPS && (p->steps[n].expression || p->steps[n].rule)) n++;
    return n;
}

kvq_status kvq_pretokenizer_split(const kvq_pretokenizer *p, const char *text, int n_bytes, const kvq_meter *meter,
                                  kvq_pieces *pieces, kvq_pieces *spare, kvq_error *err) {
    int n_steps = count_steps(p);
    pieces->n = 0;
    matcher m;
    if (!matcher_init(&m)) return no_memory(err);
    char *copy = NULL;
    const char *seen = see(text, n_bytes, &copy);
    kvq_status status = seen && add_end(pieces, n_bytes) ? KVQ_OK : no_memory(err);
    for (int i = 0; !status && i < n_steps; i++) {
        cutting c = {seen, n_bytes, kvq_meter_part(meter, (double)i / n_steps, (double)(i + 1) / n_steps), spare};
        status = apply_step(p, i, &m, pieces, &c, err);
        swap(pieces, spare);
    }
    free(copy);
    matcher_done(&m);
    return status;
}
