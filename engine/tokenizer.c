/* tokenizer.c: text to token ids and back, over the families behind it. The path of a text:
 * special.c cuts out special tokens -> each stretch between goes to bpe.c or spm.c -> ids.
 * Called by engine.c and the tools. Ids are llama.cpp's, for any bytes. */
#include "tokenizer.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "bpe.h"
#include "special.h"
#include "spm.h"
#include "utf8.h"
#include "vocab.h"

#define MAX_TEXT_BYTES (INT_MAX / 3 - 16) /* a byte may become three, and positions are ints */

struct kvq_tokenizer {
    kvq_vocab vocab;
    kvq_spm *spm; /* or */
    kvq_bpe *bpe; /* with */
    kvq_pretokenizer *pre;
    bool add_bos, add_eos, add_space_prefix;
    kvq_special all;   /* special tokens where they are parsed */
    kvq_special plain; /* those that also count in plain text */
    kvq_text *pieces;  /* [n_tokens], in piece_bytes or the vocabulary */
    char *piece_bytes;
};

/* ---- open -------------------------------------------------------------------------------------------------------- */

/* What tokenizer.ggml.model may say; defaults as llama.cpp has them. */
static const struct {
    const char *name;
    bool is_bpe;
    const char *pre; /* instead of the file's */
    int bos, eos, unknown;
} models[] = {
    {"llama", false, NULL, 1, 2, 0},
    {"gpt2", true, NULL, 11, 11, -1},
    {"gemma4", true, "gemma4", -1, -1, -1},
};
#define N_MODELS (sizeof models / sizeof *models)

static kvq_status no_memory(const kvq_gguf *g, kvq_error *err) {
    return kvq_fail(err, KVQ_NO_MEMORY, "'%s': no memory for the tokenizer", kvq_gguf_path(g));
}

static kvq_status find_model(const kvq_gguf *g, size_t *ret, kvq_error *err) {
    kvq_text name = {"", 0};
    if (!kvq_gguf_text(g, "tokenizer.ggml.model", &name))
        return kvq_fail(err, KVQ_BAD_FILE, "'%s' has no tokenizer: key 'tokenizer.ggml.model' is not a text",
                        kvq_gguf_path(g));
    for (size_t i = 0; i < N_MODELS; i++) {
        if (strlen(models[i].name) == name.n_bytes && memcmp(models[i].name, name.bytes, name.n_bytes) == 0) {
            *ret = i;
            return KVQ_OK;
        }
    }
    char shown[KVQ_SHOWN_BYTES];
    return kvq_fail(err, KVQ_UNSUPPORTED,
                    "'%s' has the tokenizer '%s'; kvqd knows 'gpt2' (BPE), 'llama' (SentencePiece) and 'gemma4'",
                    kvq_gguf_path(g), kvq_text_show(name, shown));
}

static kvq_status open_family(const kvq_gguf *g, size_t model, kvq_tokenizer *t, kvq_error *err) {
    if (!models[model].is_bpe) {
        t->add_bos = t->add_space_prefix = true;
        t->spm = kvq_spm_new(&t->vocab);
        return t->spm ? KVQ_OK : no_memory(g, err);
    }
    kvq_text pre = {"default", strlen("default")};
    kvq_text named = {"", 0};
    if (kvq_gguf_text(g, "tokenizer.ggml.pre", &named) && named.n_bytes > 0) pre = named;
    if (models[model].pre) pre = (kvq_text){models[model].pre, strlen(models[model].pre)};
    kvq_error inner = {0};
    kvq_status status = kvq_pretokenizer_open(pre, true, &t->pre, &inner);
    if (!status) status = kvq_bpe_open(g, &t->vocab, t->pre, &t->bpe, &inner);
    if (status) return kvq_fail(err, status, "'%s': %s", kvq_gguf_path(g), inner.text);
    unsigned flags = kvq_pretokenizer_flags(t->pre);
    t->add_bos = flags & KVQ_PRE_ADD_BOS;
    if (flags & KVQ_PRE_NO_BOS) t->vocab.bos = -1;
    return KVQ_OK;
}

static void read_flags(const kvq_gguf *g, kvq_tokenizer *t) {
    (void)kvq_gguf_bool(g, "tokenizer.ggml.add_bos_token", &t->add_bos); /* absent: the family's default stays */
    (void)kvq_gguf_bool(g, "tokenizer.ggml.add_eos_token", &t->add_eos);
    (void)kvq_gguf_bool(g, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix);
    if (t->pre && (kvq_pretokenizer_flags(t->pre) & KVQ_PRE_ALWAYS_BOS)) t->add_bos = true;
}

/* ---- pieces ------------------------------------------------------------------------------------------------------ */

/* U+2581 to spaces; returns the bytes written, at most text's. */
static size_t unescape_spaces(kvq_text text, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < text.n_bytes;) {
        if (text.n_bytes - i >= 3 && memcmp(text.bytes + i, "\xE2\x96\x81", 3) == 0) {
            out[n++] = ' ';
            i += 3;
        } else {
            out[n++] = text.bytes[i++];
        }
    }
    return n;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* "<0x0A>" -> that byte; nothing if the text is otherwise. */
static size_t parse_byte(kvq_text text, char *out) {
    if (text.n_bytes != 6 || memcmp(text.bytes, "<0x", 3) != 0 || text.bytes[5] != '>') return 0;
    int high = hex_digit(text.bytes[3]), low = hex_digit(text.bytes[4]);
    if (high < 0 || low < 0) return 0;
    *out = (char)(high << 4 | low);
    return 1;
}

static size_t write_piece(const kvq_tokenizer *t, int id, char *out) {
    kvq_text text = t->vocab.texts[id];
    unsigned attributes = t->vocab.attributes[id];
    if (attributes & (KVQ_TOKEN_CONTROL | KVQ_TOKEN_UNKNOWN | KVQ_TOKEN_USER_DEFINED)) {
        memcpy(out, text.bytes, text.n_bytes);
        return text.n_bytes;
    }
    if (attributes & KVQ_TOKEN_BYTE) return parse_byte(text, out);
    if (!(attributes & KVQ_TOKEN_NORMAL)) return 0; /* unused, or of no known type */
    if (!t->bpe || (kvq_pretokenizer_flags(t->pre) & KVQ_PRE_PLAIN)) return unescape_spaces(text, out);
    return kvq_bpe_piece(t->bpe, text, out);
}

static bool make_pieces(kvq_tokenizer *t) {
    size_t n_bytes = 0, n_tokens = (size_t)(t->vocab.n_tokens > 0 ? t->vocab.n_tokens : 0);
    for (size_t id = 0; id < n_tokens; id++) n_bytes += t->vocab.texts[id].n_bytes;
    t->pieces = calloc(n_tokens + 1, sizeof *t->pieces);
    t->piece_bytes = malloc(n_bytes + 1);
    if (!t->pieces || !t->piece_bytes) return false;
    char *out = t->piece_bytes;
    for (int id = 0; id < t->vocab.n_tokens; id++) {
        size_t n = write_piece(t, id, out);
        t->pieces[id] = (kvq_text){out, n};
        out += n;
    }
    return true;
}

kvq_status kvq_tokenizer_open(const kvq_gguf *g, kvq_tokenizer **ret, kvq_error *err) {
    size_t model = 0;
    kvq_status status = find_model(g, &model, err);
    if (status) return status;
    kvq_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return no_memory(g, err);
    if ((status = kvq_vocab_init(g, &t->vocab, err))) goto fail;
    t->vocab.bos = models[model].bos;
    t->vocab.eos = models[model].eos;
    t->vocab.unknown = models[model].unknown;
    if ((status = open_family(g, model, t, err))) goto fail;
    read_flags(g, t);
    kvq_vocab_mark_special(g, &t->vocab);
    unsigned named = KVQ_TOKEN_CONTROL | KVQ_TOKEN_UNKNOWN;
    if (!kvq_special_init(&t->all, &t->vocab, named | KVQ_TOKEN_USER_DEFINED, 0) ||
        !kvq_special_init(&t->plain, &t->vocab, KVQ_TOKEN_USER_DEFINED, named) || !make_pieces(t)) {
        status = no_memory(g, err);
        goto fail;
    }
    *ret = t;
    return KVQ_OK;
fail:
    kvq_tokenizer_free(t);
    return status;
}

void kvq_tokenizer_free(kvq_tokenizer *t) {
    if (!t) return;
    kvq_special_done(&t->all);
    kvq_special_done(&t->plain);
    kvq_spm_free(t->spm);
    kvq_bpe_free(t->bpe);
    kvq_pretokenizer_free(t->pre);
    free(t->pieces);
    free(t->piece_bytes);
    kvq_vocab_done(&t->vocab);
    free(t);
}

/* ---- text to ids ------------------------------------------------------------------------------------------------- */

static kvq_status encode_fragments(const kvq_tokenizer *t, const char *text, size_t n_bytes,
                                   const kvq_fragment *fragments, size_t n, kvq_encode_options options, kvq_ids *ids,
                                   kvq_error *err) {
    kvq_meter meter = {.tell = options.progress, .user = options.progress_user, .end = 1};
    bool begins =
        !options.goes_on; /* SentencePiece puts its space before the first text and after each special token */
    for (size_t i = 0; i < n; i++) {
        const kvq_fragment *f = &fragments[i];
        kvq_meter part = kvq_meter_part(&meter, (double)f->offset / (double)n_bytes,
                                        (double)(f->offset + f->n_bytes) / (double)n_bytes);
        kvq_status status = KVQ_OK;
        if (f->id >= 0)
            status = kvq_ids_push(ids, f->id) ? KVQ_OK : kvq_fail(err, KVQ_NO_MEMORY, "no memory for token ids");
        else if (t->bpe)
            status = kvq_bpe_encode(t->bpe, text + f->offset, f->n_bytes, &part, ids, err);
        else
            status =
                kvq_spm_encode(t->spm, text + f->offset, f->n_bytes, t->add_space_prefix && begins, &part, ids, err);
        if (!status && !kvq_meter_show(&meter, part.end)) status = kvq_meter_stopped(err);
        if (status) return status;
        begins = f->id >= 0;
    }
    return KVQ_OK;
}

static kvq_status encode_all(const kvq_tokenizer *t, const char *text, size_t n_bytes, kvq_encode_options options,
                             kvq_ids *ids, kvq_error *err) {
    kvq_fragment *fragments = NULL;
    size_t n = 0;
    bool bos = options.add_special && t->add_bos && t->vocab.bos >= 0;
    bool eos = options.add_special && t->add_eos && t->vocab.eos >= 0;
    if ((n_bytes > 0 &&
         !kvq_special_cut(options.parse_special ? &t->all : &t->plain, &t->vocab, text, n_bytes, &fragments, &n)) ||
        (bos && !kvq_ids_push(ids, t->vocab.bos))) {
        free(fragments);
        return kvq_fail(err, KVQ_NO_MEMORY, "no memory to tokenize a text of %zu bytes", n_bytes);
    }
    kvq_status status = encode_fragments(t, text, n_bytes, fragments, n, options, ids, err);
    free(fragments);
    if (!status && eos && !kvq_ids_push(ids, t->vocab.eos))
        status = kvq_fail(err, KVQ_NO_MEMORY, "no memory to tokenize a text of %zu bytes", n_bytes);
    return status;
}

kvq_status kvq_tokenizer_encode(const kvq_tokenizer *t, const char *text, size_t n_bytes, kvq_encode_options options,
                                int **ret_ids, size_t *ret_n, kvq_error *err) {
    if (n_bytes > MAX_TEXT_BYTES)
        return kvq_fail(err, KVQ_NO_SPACE, "a text of %zu bytes is too long to tokenize, allowed are %d", n_bytes,
                        MAX_TEXT_BYTES);
    kvq_ids ids = {0};
    kvq_status status = encode_all(t, text, n_bytes, options, &ids, err);
    if (!status && options.progress && options.progress(options.progress_user, 1)) status = kvq_meter_stopped(err);
    if (status) {
        free(ids.data);
        return status;
    }
    *ret_ids = ids.data;
    *ret_n = ids.n;
    return KVQ_OK;
}

/* ---- what is known of a token ------------------------------------------------------------------------------------ */

static bool is_token(const kvq_tokenizer *t, int id) {
    return id >= 0 && id < t->vocab.n_tokens;
}

int kvq_tokenizer_n_vocab(const kvq_tokenizer *t) {
    return t->vocab.n_tokens;
}
int kvq_tokenizer_bos(const kvq_tokenizer *t) {
    return t->vocab.bos;
}
int kvq_tokenizer_eos(const kvq_tokenizer *t) {
    return t->vocab.eos;
}
bool kvq_tokenizer_adds_bos(const kvq_tokenizer *t) {
    return t->add_bos && t->vocab.bos >= 0;
}

bool kvq_tokenizer_is_end(const kvq_tokenizer *t, int id) {
    return is_token(t, id) && (t->vocab.attributes[id] & KVQ_TOKEN_END);
}

bool kvq_tokenizer_is_control(const kvq_tokenizer *t, int id) {
    return is_token(t, id) && (t->vocab.attributes[id] & KVQ_TOKEN_CONTROL);
}

bool kvq_tokenizer_is_text(const kvq_tokenizer *t, int id) {
    unsigned cuts = KVQ_TOKEN_CONTROL | KVQ_TOKEN_UNKNOWN | KVQ_TOKEN_USER_DEFINED; /* as kvq_special_cut does */
    return is_token(t, id) && !(t->vocab.attributes[id] & cuts);
}

kvq_text kvq_tokenizer_piece(const kvq_tokenizer *t, int id, bool special) {
    if (!is_token(t, id)) return (kvq_text){"", 0};
    if (!special && (t->vocab.attributes[id] & (KVQ_TOKEN_CONTROL | KVQ_TOKEN_UNKNOWN))) return (kvq_text){"", 0};
    return t->pieces[id];
}

kvq_text kvq_tokenizer_text(const kvq_tokenizer *t, int id) {
    return is_token(t, id) ? t->vocab.texts[id] : (kvq_text){"", 0};
}

/* ---- ids to text, piece by piece --------------------------------------------------------------------------------- */

typedef struct output {
    char *bytes;
    size_t n, capacity;
} output;

static void put(output *out, const char *bytes, size_t n) {
    assert(n <= out->capacity - out->n); /* the caller gave less than KVQ_DETOKENIZED_BYTES */
    if (n > out->capacity - out->n) return;
    memcpy(out->bytes + out->n, bytes, n);
    out->n += n;
}

/* Writes what can be told of the kept bytes; what may still become a character stays unless at the end. */
static void settle(kvq_detokenizer *d, bool end, output *out) {
    while (d->n_kept > 0) {
        int n = kvq_utf8_check((const char *)d->kept, (size_t)d->n_kept);
        if (n == 0 && !end) return;
        if (n > 0)
            put(out, (const char *)d->kept, (size_t)n);
        else
            put(out, "\xEF\xBF\xBD", 3);
        int used = n > 0 ? n : n < 0 ? -n : d->n_kept;
        d->n_kept -= used;
        memmove(d->kept, d->kept + used, (size_t)d->n_kept);
    }
}

size_t kvq_detokenize(const kvq_tokenizer *t, kvq_detokenizer *d, int id, bool special, char *out, size_t capacity) {
    kvq_text piece = kvq_tokenizer_piece(t, id, special);
    output o = {out, 0, capacity};
    size_t start = 0;
    if (!d->started && piece.n_bytes > 0) {
        d->started = true;
        start = !t->bpe && t->add_space_prefix && piece.bytes[0] == ' ';
    }
    for (size_t i = start; i < piece.n_bytes; i++) {
        d->kept[d->n_kept++] = (unsigned char)piece.bytes[i];
        settle(d, false, &o);
    }
    return o.n;
}

size_t kvq_detokenize_end(kvq_detokenizer *d, char *out, size_t capacity) {
    output o = {out, 0, capacity};
    settle(d, true, &o);
    return o.n;
}
