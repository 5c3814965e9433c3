/* bpe.c: byte-level BPE: the pre-tokenizer cuts a text into words, and inside a word the neighbours whose merge rule
 * has the lowest rank are merged until no rule fits. Called by tokenizer.c.
 *
 * Two spellings. GPT-2's writes each byte as one of 256 printable characters (space is U+0120), so that tokens are
 * text; here bytes stay bytes and only the vocabulary is read through that alphabet. The plain spelling (gemma 4) has
 * characters with U+2581 for the space, and "<0x0A>" tokens for bytes that are in no token.
 *
 * Texts are numbered once at open, tokens first by their ids, so that a merge is one look-up of two numbers; a rule's
 * parts and results that are no tokens get numbers above ("extra"). */
#include "bpe.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"
#include "merge.h"
#include "utf8.h"

typedef struct rule_slot {
    int left, right; /* left -1: empty */
    int rank, result;
} rule_slot;

#define ALPHABET_SIZE 324
#define CUTTING_SHARE 0.5 /* of the time, roughly: for progress alone */

typedef struct letter {
    char text[2];
    uint8_t n_bytes;
    int number; /* of its text */
} letter;

struct kvq_bpe {
    const kvq_vocab *vocab;
    const kvq_pretokenizer *pre; /* borrowed */
    unsigned flags;
    rule_slot *rules;
    size_t rule_mask;
    kvq_text *extra; /* texts of numbers n_tokens, n_tokens + 1, ...; owned */
    int n_extra, extra_capacity;
    kvq_vocab_slot *extra_slots;
    size_t extra_mask;
    letter letters[256];             /* how a byte is spelled in GPT-2's alphabet */
    int single_bytes[256];           /* the token whose text is this one byte */
    int16_t alphabet[ALPHABET_SIZE]; /* code point of the alphabet -> byte, -1 elsewhere */
};

/* ---- GPT-2's alphabet -------------------------------------------------------------------------------------------- */

/* Printable Latin-1 characters stand for themselves, the other 68 bytes are, in order, U+0100 to U+0143. */
static bool stands_for_itself(int byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

static void fill_alphabet(int16_t *alphabet) {
    int next = 256;
    for (int c = 0; c < ALPHABET_SIZE; c++) alphabet[c] = -1;
    for (int byte = 0; byte < 256; byte++) alphabet[stands_for_itself(byte) ? byte : next++] = (int16_t)byte;
}

/* ---- numbers of texts -------------------------------------------------------------------------------------------- */

static kvq_text text_of(const kvq_bpe *b, int number) {
    return number < b->vocab->n_tokens ? b->vocab->texts[number] : b->extra[number - b->vocab->n_tokens];
}

static uint32_t hash_of(const kvq_bpe *b, kvq_text text) {
    return (uint32_t)kvq_hash(b->vocab->hash_seed, text.bytes, text.n_bytes);
}

static int find_number(const kvq_bpe *b, const char *bytes, size_t n_bytes) {
    int id = kvq_vocab_find(b->vocab, bytes, n_bytes);
    if (id >= 0 || b->n_extra == 0) return id;
    uint32_t hash = hash_of(b, (kvq_text){bytes, n_bytes});
    for (size_t i = hash & b->extra_mask; b->extra_slots[i].id >= 0; i = (i + 1) & b->extra_mask) {
        kvq_text text = b->extra[b->extra_slots[i].id];
        if (b->extra_slots[i].hash == hash && text.n_bytes == n_bytes && memcmp(text.bytes, bytes, n_bytes) == 0)
            return b->vocab->n_tokens + b->extra_slots[i].id;
    }
    return -1;
}

static bool grow_extra(kvq_bpe *b) {
    int capacity = b->extra_capacity ? b->extra_capacity * 2 : 64;
    size_t n_slots = (size_t)capacity * 2;
    kvq_text *extra = realloc(b->extra, (size_t)capacity * sizeof *extra);
    if (extra) b->extra = extra;
    kvq_vocab_slot *slots = malloc(n_slots * sizeof *slots);
    if (!extra || !slots) {
        free(slots);
        return false;
    }
    for (size_t i = 0; i < n_slots; i++) slots[i].id = -1;
    for (int id = 0; id < b->n_extra; id++) {
        uint32_t hash = hash_of(b, extra[id]);
        size_t i = hash & (n_slots - 1);
        while (slots[i].id >= 0) i = (i + 1) & (n_slots - 1);
        slots[i] = (kvq_vocab_slot){hash, id};
    }
    free(b->extra_slots);
    b->extra_slots = slots;
    b->extra_mask = n_slots - 1;
    b->extra_capacity = capacity;
    return true;
}

/* The number of a text, given to it now if it has none. -1: no memory. */
static int number_of(kvq_bpe *b, const char *bytes, size_t n_bytes) {
    int number = find_number(b, bytes, n_bytes);
    if (number >= 0) return number;
    if (b->n_extra == b->extra_capacity && !grow_extra(b)) return -1;
    char *copy = malloc(n_bytes + 1);
    if (!copy) return -1;
    memcpy(copy, bytes, n_bytes);
    uint32_t hash = hash_of(b, (kvq_text){bytes, n_bytes});
    size_t i = hash & b->extra_mask;
    while (b->extra_slots[i].id >= 0) i = (i + 1) & b->extra_mask;
    b->extra_slots[i] = (kvq_vocab_slot){hash, b->n_extra};
    b->extra[b->n_extra] = (kvq_text){copy, n_bytes};
    return b->vocab->n_tokens + b->n_extra++;
}

/* ---- merge rules ------------------------------------------------------------------------------------------------- */

static size_t rule_hash(const kvq_bpe *b, int left, int right) {
    return (size_t)kvq_hash_mix(b->vocab->hash_seed, (uint64_t)(uint32_t)left << 32 | (uint32_t)right);
}

static rule_slot *rule_place(const kvq_bpe *b, int left, int right) {
    size_t i = rule_hash(b, left, right) & b->rule_mask;
    while (b->rules[i].left >= 0 && (b->rules[i].left != left || b->rules[i].right != right))
        i = (i + 1) & b->rule_mask;
    return &b->rules[i];
}

/* "left right": the space is never the first byte. buffer: room for the text. A rule without a space is no rule. */
static bool add_rule(kvq_bpe *b, kvq_text rule, int rank, char *buffer) {
    const char *space = rule.n_bytes > 1 ? memchr(rule.bytes + 1, ' ', rule.n_bytes - 1) : NULL;
    if (!space) return true;
    size_t n_left = (size_t)(space - rule.bytes), n_right = rule.n_bytes - n_left - 1;
    if (n_right == 0) return true;
    memcpy(buffer, rule.bytes, n_left);
    memcpy(buffer + n_left, space + 1, n_right);
    int left = number_of(b, buffer, n_left), right = number_of(b, buffer + n_left, n_right);
    int result = number_of(b, buffer, n_left + n_right);
    if (left < 0 || right < 0 || result < 0) return false;
    rule_slot *slot = rule_place(b, left, right);
    if (slot->left < 0) *slot = (rule_slot){left, right, rank, result}; /* the first of equal rules counts */
    return true;
}

static kvq_status no_memory(kvq_error *err) {
    return kvq_fail(err, KVQ_NO_MEMORY, "no memory for BPE merge rules");
}

static kvq_status read_rules(const kvq_gguf *g, kvq_bpe *b, kvq_error *err) {
    kvq_gguf_type type = KVQ_GGUF_U8;
    uint64_t n = 0;
    const kvq_gguf_items *rules = kvq_gguf_items_find(g, "tokenizer.ggml.merges", &type, &n);
    if (!rules || type != KVQ_GGUF_STRING || n > INT_MAX / 4)
        return kvq_fail(err, KVQ_BAD_FILE, "key 'tokenizer.ggml.merges' is not a list of texts");
    size_t n_slots = 16, longest = 0;
    while (n_slots < n * 2) n_slots *= 2;
    kvq_text rule = {0};
    for (uint64_t i = 0; i < n; i++)
        if (kvq_gguf_items_text(rules, i, &rule) && rule.n_bytes > longest) longest = rule.n_bytes;
    char *buffer = malloc(longest + 1);
    b->rules = malloc(n_slots * sizeof *b->rules);
    bool done = buffer && b->rules;
    for (size_t i = 0; done && i < n_slots; i++) b->rules[i].left = -1;
    b->rule_mask = n_slots - 1;
    for (uint64_t i = 0; done && i < n; i++)
        done = !kvq_gguf_items_text(rules, i, &rule) || add_rule(b, rule, (int)i, buffer);
    free(buffer);
    return done ? KVQ_OK : no_memory(err);
}

static bool merge_rule(const void *family, const kvq_symbol *left, const kvq_symbol *right, uint32_t *ret_order,
                       int *ret_id) {
    const kvq_bpe *b = family;
    if (left->id < 0 || right->id < 0) return false;
    const rule_slot *slot = rule_place(b, left->id, right->id);
    if (slot->left < 0) return false;
    *ret_order = (uint32_t)slot->rank;
    *ret_id = slot->result;
    return true;
}

/* ---- open -------------------------------------------------------------------------------------------------------- */

/* Every byte gets a number, so that a letter that is no token still has its rules. */
static bool find_letters(kvq_bpe *b) {
    for (int c = 0; c < ALPHABET_SIZE; c++) {
        if (b->alphabet[c] < 0) continue;
        letter *l = &b->letters[b->alphabet[c]];
        char text[4];
        l->n_bytes = (uint8_t)kvq_utf8_put((uint32_t)c, text);
        memcpy(l->text, text, sizeof l->text);
        l->number = number_of(b, text, l->n_bytes);
        if (l->number < 0) return false;
    }
    for (int byte = 0; byte < 256; byte++) {
        char text = (char)byte;
        b->single_bytes[byte] = kvq_vocab_find(b->vocab, &text, 1);
    }
    return true;
}

kvq_status kvq_bpe_open(const kvq_gguf *g, const kvq_vocab *v, const kvq_pretokenizer *pre, kvq_bpe **ret,
                        kvq_error *err) {
    kvq_bpe *b = calloc(1, sizeof *b);
    if (!b) return no_memory(err);
    b->vocab = v;
    b->pre = pre;
    b->flags = kvq_pretokenizer_flags(pre);
    fill_alphabet(b->alphabet);
    kvq_status status = read_rules(g, b, err);
    if (!status && !find_letters(b)) status = no_memory(err);
    if (status) {
        kvq_bpe_free(b);
        return status;
    }
    *ret = b;
    return KVQ_OK;
}

void kvq_bpe_free(kvq_bpe *b) {
    if (!b) return;
    for (int i = 0; i < b->n_extra; i++) free((char *)b->extra[i].bytes);
    free(b->extra);
    free(b->extra_slots);
    free(b->rules);
    free(b);
}

/* ---- repair -------------------------------------------------------------------------------------------------------
 */

/* A text as llama.cpp reads it: what is no character is U+FFFD, byte by byte; overlong forms become short ones. In the
 * plain spelling spaces are U+2581. NULL: no memory. */
static char *repair(const char *text, size_t n_bytes, bool plain, int *ret_n_bytes) {
    char *out = malloc(n_bytes * 3 + 4); /* a wrong byte becomes three, and put may write four */
    int n = 0;
    for (size_t at = 0; out && at < n_bytes;) {
        uint32_t c = 0xFFFD;
        int n_in = kvq_utf8_get_loose(text + at, n_bytes - at, &c);
        n += kvq_utf8_put(plain && c == ' ' ? 0x2581 : c, out + n);
        at += n_in > 0 ? (size_t)n_in : 1;
    }
    *ret_n_bytes = n;
    return out;
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

typedef struct session {
    const kvq_bpe *b;
    kvq_merger merger;
    kvq_pieces pieces, spare;
    char *spelled; /* room for the longest token and one letter more */
    kvq_ids *ids;
} session;

/* A symbol that is no token, byte by byte, as far as the vocabulary has tokens for bytes. */
static bool add_bytes(session *s, kvq_text text) {
    const int *table = s->b->flags & KVQ_PRE_PLAIN ? s->b->vocab->byte_ids : s->b->single_bytes;
    for (size_t i = 0; i < text.n_bytes; i++) {
        int id = table[(uint8_t)text.bytes[i]];
        if (id >= 0 && !kvq_ids_push(s->ids, id)) return false;
    }
    return true;
}

static bool add_result(session *s, const char *word, const kvq_symbol *symbol) {
    if (symbol->id < 0) return add_bytes(s, (kvq_text){word + symbol->start, (size_t)symbol->n_bytes});
    if (symbol->id >= s->b->vocab->n_tokens) return add_bytes(s, text_of(s->b, symbol->id));
    return kvq_ids_push(s->ids, symbol->id);
}

static bool add_symbols(session *s, const char *word, int n_bytes) {
    kvq_merger_clear(&s->merger);
    bool plain = s->b->flags & KVQ_PRE_PLAIN;
    for (int at = 0; at < n_bytes;) {
        int n = plain ? kvq_utf8_announced((uint8_t)word[at]) : 1;
        if (n > n_bytes - at) n = n_bytes - at;
        int number = plain ? find_number(s->b, word + at, (size_t)n) : s->b->letters[(uint8_t)word[at]].number;
        if (!kvq_merger_add(&s->merger, at, n, number)) return false;
        at += n;
    }
    return true;
}

static bool merge_word(session *s, const char *word, int n_bytes) {
    if (!add_symbols(s, word, n_bytes) || !kvq_merger_run(&s->merger, merge_rule, s->b)) return false;
    for (int i = 0; i >= 0; i = s->merger.symbols[i].next)
        if (!add_result(s, word, &s->merger.symbols[i])) return false;
    return true;
}

/* The token that is the whole word, or -1. */
static int whole_word(session *s, const char *word, int n_bytes) {
    const kvq_bpe *b = s->b;
    if (b->flags & KVQ_PRE_PLAIN) return kvq_vocab_find(b->vocab, word, (size_t)n_bytes);
    size_t n = 0;
    for (int i = 0; i < n_bytes && n <= b->vocab->longest_bytes; i++) {
        const letter *l = &b->letters[(uint8_t)word[i]];
        memcpy(s->spelled + n, l->text, sizeof l->text);
        n += l->n_bytes;
    }
    return kvq_vocab_find(b->vocab, s->spelled, n); /* a word cut above is longer than any token */
}

static bool is_line_ends(const char *word, int n_bytes) {
    for (int i = 0; i < n_bytes; i++)
        if (word[i] != '\n') return false;
    return true;
}

static bool encode_word(session *s, const char *word, int n_bytes) {
    unsigned flags = s->b->flags;
    bool may_be_whole =
        (flags & KVQ_PRE_IGNORE_MERGES) || ((flags & KVQ_PRE_LINE_TOKENS) && is_line_ends(word, n_bytes));
    int id = may_be_whole ? whole_word(s, word, n_bytes) : -1;
    return id >= 0 ? kvq_ids_push(s->ids, id) : merge_word(s, word, n_bytes);
}

static kvq_status encode_words(session *s, const char *text, int n_bytes, const kvq_meter *meter, kvq_error *err) {
    kvq_meter cutting = kvq_meter_part(meter, 0, CUTTING_SHARE), merging = kvq_meter_part(meter, CUTTING_SHARE, 1);
    kvq_status status = kvq_pretokenizer_split(s->b->pre, text, n_bytes, &cutting, &s->pieces, &s->spare, err);
    if (status) return status;
    for (size_t i = 0; i < s->pieces.n; i++) {
        int start = i ? s->pieces.ends[i - 1] : 0;
        if (!encode_word(s, text + start, s->pieces.ends[i] - start))
            return kvq_fail(err, KVQ_NO_MEMORY, "no memory to tokenize a text of %d bytes", n_bytes);
        if (!kvq_meter_show(&merging, (double)start / n_bytes)) return kvq_meter_stopped(err);
    }
    return KVQ_OK;
}

kvq_status kvq_bpe_encode(const kvq_bpe *b, const char *text, size_t n_bytes, const kvq_meter *meter, kvq_ids *ids,
                          kvq_error *err) {
    session s = {.b = b, .ids = ids, .spelled = malloc(b->vocab->longest_bytes + 2 * sizeof((letter *)0)->text)};
    int n_repaired = 0;
    char *repaired = repair(text, n_bytes, b->flags & KVQ_PRE_PLAIN, &n_repaired);
    kvq_status status;
    if (!s.spelled || !repaired)
        status = kvq_fail(err, KVQ_NO_MEMORY, "no memory to tokenize a text of %zu bytes", n_bytes);
    else
        status = encode_words(&s, repaired, n_repaired, meter, err);
    free(repaired);
    kvq_merger_done(&s.merger);
    free(s.pieces.ends);
    free(s.spare.ends);
    free(s.spelled);
    return status;
}

/* ---- the way back ------------------------------------------------------------------------------------------------ */

size_t kvq_bpe_piece(const kvq_bpe *b, kvq_text text, char *out) {
    size_t n = 0;
    for (size_t at = 0; at < text.n_bytes;) {
        uint32_t c = 0;
        int n_in = kvq_utf8_get_loose(text.bytes + at, text.n_bytes - at, &c);
        if (n_in > 0 && c < ALPHABET_SIZE && b->alphabet[c] >= 0) {
            out[n++] = (char)b->alphabet[c];
        } else { /* not of the alphabet: as it stands */
            n_in = n_in > 0 ? n_in : 1;
            memcpy(out + n, text.bytes + at, (size_t)n_in);
            n += (size_t)n_in;
        }
        at += (size_t)n_in;
    }
    return n;
}
