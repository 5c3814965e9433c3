/* test_tokenizer.c: both tokenizer families on small vocabularies of our own: what merges, what is cut out, what comes
 * back. That real vocabularies give llama.cpp's ids is tests/golden/check_tokens.py's and
 * tests/live/compare_tokens.py's business. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/pretokenizer.h"
#include "engine/tokenizer.h"
#include "engine/utf8.h"
#include "failing_alloc.h"
#include "gguf_file.h"
#include "tests/sample.h"

enum { UNDEFINED, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE };

typedef struct token {
    const char *text;
    int type;
    float score;
} token;

static gguf_file file;
static kvq_gguf *gguf;
static kvq_tokenizer *tokenizer;

static int tear_down(void **state) {
    (void)state;
    kvq_tokenizer_free(tokenizer);
    kvq_gguf_close(gguf);
    end_file(&file);
    tokenizer = NULL;
    gguf = NULL;
    return 0;
}

/* ---- vocabularies -------------------------------------------------------------------------------------------------
 */

static void put_tokens(const token *tokens, int n) {
    put_array_key(&file, "tokenizer.ggml.tokens", KVQ_GGUF_STRING, (uint64_t)n);
    for (int i = 0; i < n; i++) put_text(&file, tokens[i].text);
    put_array_key(&file, "tokenizer.ggml.token_type", KVQ_GGUF_I32, (uint64_t)n);
    for (int i = 0; i < n; i++) put(&file, &(int32_t){tokens[i].type}, 4);
    put_array_key(&file, "tokenizer.ggml.scores", KVQ_GGUF_F32, (uint64_t)n);
    for (int i = 0; i < n; i++) put(&file, &tokens[i].score, 4);
}

static void put_merges(const char *const *merges, int n) {
    put_array_key(&file, "tokenizer.ggml.merges", KVQ_GGUF_STRING, (uint64_t)n);
    for (int i = 0; i < n; i++) put_text(&file, merges[i]);
}

static void open_all(void) {
    kvq_error err = {0};
    if (open_file(&file, &gguf, &err) || kvq_tokenizer_open(gguf, &tokenizer, &err)) fail_msg("%s", err.text);
}

/* Ids 0 to 255 are the bytes, spelled in GPT-2's alphabet; then these. */
static const token bpe_tokens[] = {
    {"he", NORMAL, 0},               /* 256 */
    {"ll", NORMAL, 0},               /* 257 */
    {"hell", NORMAL, 0},             /* 258 */
    {"hello", NORMAL, 0},            /* 259 */
    {"lo", NORMAL, 0},               /* 260: no merge makes it */
    {"Ġhello", NORMAL, 0},           /* 261 */
    {"aa", NORMAL, 0},               /* 262 */
    {"aaaa", NORMAL, 0},             /* 263 */
    {"<|im_start|>", CONTROL, 0},    /* 264 */
    {"<|im_end|>", NORMAL, 0},       /* 265: control by its name */
    {"<tag>", USER_DEFINED, 0},      /* 266 */
    {"<tag><tag>", USER_DEFINED, 0}, /* 267 */
    {"[UNK]", UNKNOWN, 0},           /* 268 */
    {"", UNUSED, 0},                 /* 269 */
    {"<bos>", CONTROL, 0},           /* 270 */
    {"<end>", CONTROL, 0},           /* 271: the file's EOS */
};
enum { N_BPE = 256 + sizeof bpe_tokens / sizeof *bpe_tokens };
static const char *const bpe_merges[] = {"h e", "l l",   "he ll", "hell o", "Ġ hello",
                                         "a a", "aa aa", "x y",   "xy z",   "h e"};

static void fill_letters(token *tokens, char texts[256][4]) {
    int next = 256;
    for (int b = 0; b < 256; b++) {
        bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        texts[b][kvq_utf8_put((uint32_t)(itself ? b : next++), texts[b])] = '\0';
        tokens[b] = (token){texts[b], NORMAL, 0};
    }
}

static void put_bpe_vocabulary(const char *pre) {
    static char letters[256][4];
    token tokens[N_BPE];
    fill_letters(tokens, letters);
    memcpy(tokens + 256, bpe_tokens, sizeof bpe_tokens);
    put_text_key(&file, "tokenizer.ggml.model", "gpt2");
    put_text_key(&file, "tokenizer.ggml.pre", pre);
    put_tokens(tokens, N_BPE);
    put_merges(bpe_merges, sizeof bpe_merges / sizeof *bpe_merges);
    put_u32_key(&file, "tokenizer.ggml.bos_token_id", 270);
    put_u32_key(&file, "tokenizer.ggml.eos_token_id", 271);
}

static int set_up_bpe(void **state) {
    (void)state;
    start_file(&file);
    put_bpe_vocabulary("gpt-2");
    open_all();
    return 0;
}

/* SentencePiece: 0 to 2 as usual, 3 to 258 the bytes, then these. */
static const token spm_tokens[] = {
    {"▁", NORMAL, -1},
    /* 259 */ {"a", NORMAL, -2},
    /* 260 */ {"b", NORMAL, -3}, /* 261 */
    {"ab", NORMAL, -9},
    /* 262 */ {"ba", NORMAL, -8},
    /* 263 */ {"▁a", NORMAL, -7}, /* 264 */
    {"bab", NORMAL, -6},
    /* 265: no pair makes it before ba */ {"<x>", USER_DEFINED, 0}, /* 266 */
    {"<end_of_turn>", CONTROL, 0},
    /* 267 */ {"▁▁", NORMAL, -5}, /* 268 */
};
enum { N_SPM = 3 + 256 + sizeof spm_tokens / sizeof *spm_tokens };

static void put_spm_vocabulary(const char *name) {
    static char bytes[256][8];
    token tokens[N_SPM] = {{"<unk>", UNKNOWN, 0}, {"<s>", CONTROL, 0}, {"</s>", CONTROL, 0}};
    for (int b = 0; b < 256; b++) {
        snprintf(bytes[b], sizeof bytes[b], "<0x%02X>", (unsigned)b);
        tokens[3 + b] = (token){bytes[b], BYTE, 0};
    }
    memcpy(tokens + 259, spm_tokens, sizeof spm_tokens);
    put_text_key(&file, "general.name", name);
    put_text_key(&file, "tokenizer.ggml.model", "llama");
    put_tokens(tokens, N_SPM);
}

static int set_up_spm(void **state) {
    (void)state;
    start_file(&file);
    put_spm_vocabulary("any");
    open_all();
    return 0;
}

static int set_up_nothing(void **state) {
    (void)state;
    start_file(&file);
    return 0;
}

/* ---- helpers ------------------------------------------------------------------------------------------------------
 */

static void encodes(const char *text, size_t n_bytes, kvq_encode_options options, const int *ids, size_t n) {
    int *got = NULL;
    size_t n_got = 0;
    kvq_error err = {0};
    if (kvq_tokenizer_encode(tokenizer, text, n_bytes, options, &got, &n_got, &err)) fail_msg("%s", err.text);
    for (size_t i = 0; i < n && i < n_got; i++)
        if (got[i] != ids[i]) fail_msg("'%.40s': id %zu is %d, not %d", text, i, got[i], ids[i]);
    assert_int_equal(n_got, n);
    free(got);
}

#define ENCODES(text, options, ...) \
    encodes(text, sizeof(text) - 1, options, (int[]){__VA_ARGS__}, sizeof((int[]){__VA_ARGS__}) / sizeof(int))

static const kvq_encode_options plain = {0}, parsed = {.parse_special = true}, added = {.add_special = true};

/* ---- BPE ----------------------------------------------------------------------------------------------------------
 */

static void bpe_merges_by_rank_not_by_position(void **state) {
    (void)state;
    ENCODES("hello", plain, 259);
    ENCODES("hello hello", plain, 259, 261);
    ENCODES("hellhe", plain, 258, 256);
    ENCODES("lo", plain, 'l', 'o'); /* a token that no rule makes is not made */
    ENCODES("aaaaa", plain, 263, 'a');
    ENCODES("aaa", plain, 262, 'a'); /* of equal ranks the left one goes first */
    encodes("", 0, plain, NULL, 0);
}

static void bpe_symbols_that_are_no_token_become_their_bytes(void **state) {
    (void)state;
    ENCODES("xy", plain, 'x', 'y'); /* "xy" has a rule and no token */
    ENCODES("xyz", plain, 'x', 'y', 'z');
}

static void bpe_bytes_that_are_no_character_become_the_replacement_character(void **state) {
    (void)state;
    ENCODES("a\xFFz", plain, 'a', 0xEF, 0xBF, 0xBD, 'z');
    ENCODES("\xE2\x82", plain, 0xEF, 0xBF, 0xBD, 0xEF, 0xBF, 0xBD); /* a cut character, byte by byte */
    ENCODES("\xC0\x80", plain, 0);                                  /* overlong, as llama.cpp reads it */
    ENCODES("\xED\xA0\x80", plain, 0xED, 0xA0, 0x80);               /* a surrogate */
    ENCODES("\xF4\x90\x80\x80", plain, 0xEF, 0xBF, 0xBD, 0xEF, 0xBF, 0xBD, 0xEF, 0xBF, 0xBD, 0xEF, 0xBF, 0xBD);
    ENCODES("\0\x01", plain, 0, 1);
}

static void special_tokens_are_cut_out_where_they_are_parsed(void **state) {
    (void)state;
    ENCODES("<|im_start|>hello<|im_end|>", parsed, 264, 259, 265);
    ENCODES("a<|im_end|>", plain, 'a', '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>');
    ENCODES("[UNK]", parsed, 268);
    ENCODES("<|im_start|", parsed, '<', '|', 'i', 'm', '_', 's', 't', 'a', 'r', 't', '|');
    ENCODES("<<|im_start|>>", parsed, '<', 264, '>');
}

static void user_defined_tokens_are_always_cut_out_the_longest_first(void **state) {
    (void)state;
    ENCODES("a<tag>b", plain, 'a', 266, 'b');
    ENCODES("<tag><tag><tag>", plain, 267, 266);
    ENCODES("<tag> <tag>", plain, 266, ' ', 266);
}

static void bos_and_eos_are_added_where_the_file_asks(void **state) {
    (void)state;
    ENCODES("a", added, 'a');
    assert_false(kvq_tokenizer_adds_bos(tokenizer));
    tear_down(NULL);
    start_file(&file);
    put_bpe_vocabulary("gpt-2");
    put_bool_key(&file, "tokenizer.ggml.add_bos_token", 1);
    put_bool_key(&file, "tokenizer.ggml.add_eos_token", 1);
    open_all();
    ENCODES("a", added, 270, 'a', 271);
    ENCODES("", added, 270, 271);
    ENCODES("a", plain, 'a');
    assert_true(kvq_tokenizer_adds_bos(tokenizer));
    assert_int_equal(kvq_tokenizer_bos(tokenizer), 270);
    assert_int_equal(kvq_tokenizer_eos(tokenizer), 271);
}

static void ignore_merges_takes_a_whole_word_that_is_a_token(void **state) {
    (void)state;
    tear_down(NULL);
    start_file(&file);
    put_bpe_vocabulary("llama-bpe");
    open_all();
    ENCODES("lo", plain, 260);
    ENCODES("lo!", plain, 260, '!');
    assert_true(kvq_tokenizer_adds_bos(tokenizer)); /* the row's flag */
}

static void what_ends_a_generation_is_found_by_id_and_by_name(void **state) {
    (void)state;
    assert_true(kvq_tokenizer_is_end(tokenizer, 271)); /* EOS */
    assert_true(kvq_tokenizer_is_end(tokenizer, 265)); /* "<|im_end|>" */
    assert_true(kvq_tokenizer_is_control(tokenizer, 265));
    assert_false(kvq_tokenizer_is_end(tokenizer, 264));
    assert_true(kvq_tokenizer_is_control(tokenizer, 264));
    assert_false(kvq_tokenizer_is_control(tokenizer, 259));
    static const int outside[] = {-1, N_BPE, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        assert_false(kvq_tokenizer_is_end(tokenizer, outside[i]));
        assert_false(kvq_tokenizer_is_control(tokenizer, outside[i]));
        assert_int_equal(kvq_tokenizer_piece(tokenizer, outside[i], true).n_bytes, 0);
        assert_int_equal(kvq_tokenizer_text(tokenizer, outside[i]).n_bytes, 0);
    }
    assert_int_equal(kvq_tokenizer_n_vocab(tokenizer), N_BPE);
}

static void has_piece(int id, bool special, const char *text, size_t n_bytes) {
    kvq_text piece = kvq_tokenizer_piece(tokenizer, id, special);
    assert_int_equal(piece.n_bytes, n_bytes);
    assert_memory_equal(piece.bytes, text, n_bytes);
}

static void bpe_pieces_are_bytes_and_control_tokens_are_silent(void **state) {
    (void)state;
    for (int b = 0; b < 256; b++) has_piece(b, false, &(char){(char)b}, 1);
    has_piece(261, false, " hello", 6);
    has_piece(264, false, "", 0);
    has_piece(264, true, "<|im_start|>", 12);
    has_piece(266, false, "<tag>", 5);
    has_piece(269, true, "", 0); /* unused */
    kvq_text text = kvq_tokenizer_text(tokenizer, 261);
    assert_memory_equal(text.bytes, "Ġhello", text.n_bytes);
}

static void a_word_of_a_million_bytes_is_no_matter(void **state) {
    (void)state;
    size_t n_bytes = 1000000;
    char *text = malloc(n_bytes);
    int *ids = NULL;
    size_t n = 0;
    memset(text, 'a', n_bytes);
    assert_int_equal(kvq_tokenizer_encode(tokenizer, text, n_bytes, parsed, &ids, &n, NULL), KVQ_OK);
    assert_int_equal(n, n_bytes / 4);
    for (size_t i = 0; i < n; i++) assert_int_equal(ids[i], 263);
    free(ids);
    assert_int_equal(kvq_tokenizer_encode(tokenizer, text, (size_t)1 << 30, parsed, &ids, &n, NULL), KVQ_NO_SPACE);
    free(text);
}

typedef struct watcher {
    double last;
    int n_calls, stop_at;
} watcher;

static int watch(void *user, double ratio) {
    watcher *w = user;
    assert_true(ratio >= w->last && ratio <= 1);
    w->last = ratio;
    return ++w->n_calls == w->stop_at;
}

/* Both families. */
static void whoever_watches_sees_how_far_it_is_and_may_stop_it(void **state) {
    (void)state;
    static char text[40000];
    int *ids = NULL, *none = NULL;
    size_t n = 0;
    kvq_error err = {0};
    watcher w = {0};
    const kvq_encode_options watched = {.progress = watch, .progress_user = &w};
    for (size_t i = 0; i < sizeof text; i++) text[i] = "x "[i % 2];
    assert_int_equal(kvq_tokenizer_encode(tokenizer, text, sizeof text, watched, &ids, &n, &err), KVQ_OK);
    assert_true(w.last == 1);
    assert_true(w.n_calls > 4);
    free(ids);
    const int stops[] = {1, w.n_calls / 2, w.n_calls};
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        w = (watcher){.stop_at = stops[i]};
        assert_int_equal(kvq_tokenizer_encode(tokenizer, text, sizeof text, watched, &none, &n, &err), KVQ_CANCELLED);
        assert_int_equal(w.n_calls, stops[i]);
        assert_null(none);
    }
}

/* ---- SentencePiece ------------------------------------------------------------------------------------------------
 */

static void spm_merges_by_score_and_puts_a_space_first(void **state) {
    (void)state;
    ENCODES("a", plain, 264);
    ENCODES("a a", plain, 264, 264);
    ENCODES("bab", plain, 259, 265); /* ▁ b a b: "ba" (-8) before "ab" (-9), then "bab" */
    ENCODES("  a", plain, 268, 264); /* ▁▁▁a: "▁▁" (-5), then "▁a" */
    encodes("", 0, plain, NULL, 0);
    ENCODES("", added, 1);
    ENCODES("a", added, 1, 264);
}

static void spm_puts_its_space_after_special_tokens_only(void **state) {
    (void)state;
    ENCODES("a<x>a<end_of_turn>a", parsed, 264, 266, 264, 267, 264);
    ENCODES("a<x>", plain, 264, 266);
    tear_down(NULL);
    start_file(&file);
    put_spm_vocabulary("any");
    put_bool_key(&file, "tokenizer.ggml.add_space_prefix", 0);
    put_bool_key(&file, "tokenizer.ggml.add_bos_token", 0);
    open_all();
    ENCODES("a a", added, 260, 264);
}

static void spm_falls_back_to_bytes_and_so_keeps_invalid_text(void **state) {
    (void)state;
    ENCODES("é", plain, 259, 3 + 0xC3, 3 + 0xA9);
    ENCODES("\xFF\xE2\x82", plain, 259, 3 + 0xFF, 3 + 0xE2, 3 + 0x82);
    ENCODES("\xE2\x96\x81z", plain, 268, 3 + 'z'); /* a written U+2581 is a space */
    has_piece(3 + 0xFF, false, "\xFF", 1);
    has_piece(264, false, " a", 2);
    has_piece(266, false, "<x>", 3);
    has_piece(1, false, "", 0);
    has_piece(0, true, "<unk>", 5);
    assert_true(kvq_tokenizer_is_end(tokenizer, 2));
    assert_true(kvq_tokenizer_is_end(tokenizer, 267));
}

static void phi_3s_special_tokens_swallow_the_white_space_after_them(void **state) {
    (void)state;
    tear_down(NULL);
    start_file(&file);
    put_spm_vocabulary("Phi-3 mini");
    open_all();
    ENCODES("<end_of_turn> \n\ta", parsed, 267, 264);
    ENCODES("<s> a", parsed, 1, 268, 260); /* but not these: the text " a", and the space that goes before a text */
}

/* ---- wrong vocabularies -------------------------------------------------------------------------------------------
 */

static void refuses(kvq_status code, const char *text) {
    kvq_error err = {0};
    kvq_gguf *g = NULL;
    kvq_tokenizer *t = NULL;
    if (open_file(&file, &g, &err)) fail_msg("%s", err.text);
    kvq_status status = kvq_tokenizer_open(g, &t, &err);
    char expected[KVQ_ERROR_BYTES];
    snprintf(expected, sizeof expected, text, file.path);
    assert_int_equal(status, code);
    assert_string_equal(err.text, expected);
    assert_null(t);
    kvq_gguf_close(g);
    start_file(&file);
}

static void vocabularies_that_are_wrong_are_refused(void **state) {
    (void)state;
    static const token twins[] = {{"a", NORMAL, 0}, {"b", NORMAL, 0}, {"a", NORMAL, 0}};
    refuses(KVQ_BAD_FILE, "'%s' has no tokenizer: key 'tokenizer.ggml.model' is not a text");

    put_text_key(&file, "tokenizer.ggml.model", "t5");
    refuses(KVQ_UNSUPPORTED,
            "'%s' has the tokenizer 't5'; kvqd knows 'gpt2' (BPE), 'llama' (SentencePiece) and 'gemma4'");

    put_text_key(&file, "tokenizer.ggml.model", "llama");
    put_text_key(&file, "tokenizer.ggml.tokens", "a");
    refuses(KVQ_BAD_FILE, "'%s' has no vocabulary: key 'tokenizer.ggml.tokens' is not a list of texts");

    put_text_key(&file, "tokenizer.ggml.model", "llama");
    put_tokens(twins, 3);
    refuses(KVQ_BAD_FILE, "'%s': tokens 0 and 2 of the vocabulary have the same text");

    put_text_key(&file, "tokenizer.ggml.model", "llama");
    put_array_key(&file, "tokenizer.ggml.tokens", KVQ_GGUF_STRING, 1);
    put_text(&file, "a");
    put_array_key(&file, "tokenizer.ggml.token_type", KVQ_GGUF_I32, 0);
    refuses(KVQ_BAD_FILE, "'%s': key 'tokenizer.ggml.token_type' is not a list of 1 i32 numbers");

    put_text_key(&file, "tokenizer.ggml.model", "llama");
    put_array_key(&file, "tokenizer.ggml.tokens", KVQ_GGUF_STRING, 1);
    put_text(&file, "a");
    put_array_key(&file, "tokenizer.ggml.scores", KVQ_GGUF_F64, 1);
    put_u64(&file, 0);
    refuses(KVQ_BAD_FILE, "'%s': key 'tokenizer.ggml.scores' is not a list of 1 f32 or i32 numbers");

    put_text_key(&file, "tokenizer.ggml.model", "gpt2");
    put_tokens(twins, 2);
    refuses(KVQ_BAD_FILE, "'%s': key 'tokenizer.ggml.merges' is not a list of texts");

    put_text_key(&file, "tokenizer.ggml.model", "gpt2");
    put_text_key(&file, "tokenizer.ggml.pre", "granite-embed-multi-97m");
    put_tokens(twins, 2);
    refuses(KVQ_UNSUPPORTED, "'%s': kvqd does not know the pre-tokenizer 'granite-embed-multi-97m'");
}

static void odd_vocabularies_do_no_harm(void **state) {
    (void)state;
    static const token one[] = {{"\xFF\xE2", NORMAL, 0}, {"", 77, 0}};
    static const char *const merges[] = {"", " ", "a", "a ", " a", "a b c", "\xFF \xE2", "ab c"};
    put_text_key(&file, "tokenizer.ggml.model", "gpt2");
    put_tokens(one, 2);
    put_merges(merges, 8);
    put_u32_key(&file, "tokenizer.ggml.bos_token_id", 99);
    put_u32_key(&file, "tokenizer.ggml.eos_token_id", 99);
    put_bool_key(&file, "tokenizer.ggml.add_bos_token", 1);
    open_all();
    assert_int_equal(kvq_tokenizer_bos(tokenizer), -1); /* 99 is no token, and neither is the default */
    int *ids = NULL;
    size_t n = 0;
    assert_int_equal(kvq_tokenizer_encode(tokenizer, "abc \xFF", 5, added, &ids, &n, NULL), KVQ_OK);
    assert_int_equal(n, 0); /* nothing that the vocabulary could spell */
    free(ids);
}

/* ---- pre-tokenizers -----------------------------------------------------------------------------------------------
 */

/* Cuts a text by a row and writes the pieces with bars between. */
static void split(const char *row, bool use_jit, const char *text, size_t n_bytes, char *out, size_t capacity) {
    kvq_pretokenizer *p = NULL;
    kvq_error err = {0};
    kvq_pieces pieces = {0}, spare = {0};
    if (kvq_pretokenizer_open((kvq_text){row, strlen(row)}, use_jit, &p, &err)) fail_msg("%s", err.text);
    const kvq_meter unwatched = {0};
    if (kvq_pretokenizer_split(p, text, (int)n_bytes, &unwatched, &pieces, &spare, &err)) fail_msg("%s", err.text);
    size_t n = 0;
    for (size_t i = 0; i < pieces.n; i++) {
        int start = i ? pieces.ends[i - 1] : 0;
        assert_true(pieces.ends[i] > start);
        assert_true(n + (size_t)(pieces.ends[i] - start) + 2 < capacity);
        if (i) out[n++] = '|';
        memcpy(out + n, text + start, (size_t)(pieces.ends[i] - start));
        n += (size_t)(pieces.ends[i] - start);
    }
    assert_int_equal(pieces.n ? pieces.ends[pieces.n - 1] : 0, n_bytes); /* nothing is lost */
    out[n] = '\0';
    free(pieces.ends);
    free(spare.ends);
    kvq_pretokenizer_free(p);
}

static void rows_cut_where_their_models_do(void **state) {
    (void)state;
    static const struct {
        const char *row, *text, *pieces;
    } rows[] = {
        {"gpt-2", "I'll go  home, 1234!?\n\n x", "I|'ll| go| | home|,| 1234|!?|\n\n| x"},
        {"gpt-2", "a \xE2\x80\x83 b\t\tc", "a| \xE2\x80\x83| b|\t|\t|c"},
        {"gpt-2", "x\xE1\xA0\x8Ey", "x|\xE1\xA0\x8E|y"}, /* U+180E is no white space, though PCRE2's \s says so */
        {"smollm", "v1234 x", "v|1|2|3|4| x"},
        {"llama-bpe", "We'RE 12345 (ok)\r\n\r\n  x", "We|'RE| |123|45| (|ok|)\r\n\r\n| | x"},
        {"qwen2", "日本語123 a\n \n b", "日本語|1|2|3| a|\n \n| b"},
        {"qwen2", "ä\xCC\x88o", "ä|\xCC\x88o"}, /* a mark is no letter */
        {"qwen35", "ä\xCC\x88o", "ä\xCC\x88o"}, /* here it is */
        {"deepseek-v3", "Hi漢字カナ12345,ok", "Hi|漢字カナ|123|45|,ok"},
        {"deepseek-v3", "\xF0\x9F\xAB\xA8\xF0\x9F\x98\x80 x", "\xF0\x9F\xAB\xA8\xF0\x9F\x98\x80| x"}, /* Unicode 15 */
        {"deepseek-coder", "ab 12\n\xE3\x80\x80", "ab| |1|2|\n|\xE3\x80\x80"},
        {"deepseek-llm", "ab 123\n中文 。", "ab| |123|\n|中文| |。"},
        {"falcon", "a1234$b", "a|123|4|$|b"},
        {"bloom", "ab cd, (ef)", "ab| cd|, (|ef|)"},
        {"gpt-4o", "HelloWorld's ABCdef/\n", "Hello|World's| ABCdef|/\n"},
        {"tekken", "Hello's 12", "Hello|'s| |1|2"},
        {"superbpe", "x1234567y123", "x|1|234|567|y|123"},
        {"tiny_aya", "1234567 a12", "1|234|567| a|12"},
        {"afmoe", "ab1234", "ab|1|234"},
        {"kimi-k2", "Hi漢字's x'll", "Hi|漢字|'s| x'll"},
        {"chameleon", "<sentinel:12>IMGIMGABZ  x", "<|sentinel|:|1|2|>|IMGIMGABZ|  |x"},
        {"gemma4", "a b\n\nc", "a b|\n\n|c"},
        {"laguna", "a\n b", "a|\n| b"},
        {"bailingmoe", "!\n\na'D", "!\n\n|a|'D"},
        {"exaone-moe", "ab cd 1", "ab cd| |1"},
        {"default", "a1234 $x", "a|123|4| |$|x"},
        {"viking", "ab12, c", "ab|1|2|,| c"},
        {"jais-2",
         "a"
         "        "
         "b",
         "a|    |  | | b"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char got[256];
        split(rows[i].row, true, rows[i].text, strlen(rows[i].text), got, sizeof got);
        if (strcmp(got, rows[i].pieces) != 0) fail_msg("%s: '%s' instead of '%s'", rows[i].row, got, rows[i].pieces);
    }
}

/* Where memory may not be made executable, the expressions are interpreted. */
static void every_row_cuts_alike_with_and_without_machine_code(void **state) {
    (void)state;
    static const char text[] =
        "I'LL naïve\xC2\xA0 12345678 \r\n\r\n   漢字カナ한글 😀👩‍👩‍👧 x̂ỹ --==>> "
        "\t\t<b>\xED\xA0\x80\xE1\xA0\x8E"
        "\xF0\x9F\xAB\xA8 ١٢٣٤ Ⅷ½ IMGIMGAZ <sentinel:1> ⼀豈　。end  ";
    size_t n = 0;
    for (const char *row; (row = kvq_pretokenizer_name(n)); n++) {
        static char with[1024], without[1024];
        split(row, true, text, sizeof text - 1, with, sizeof with);
        split(row, false, text, sizeof text - 1, without, sizeof without);
        assert_string_equal(with, without);
        assert_true(strchr(with, '|') != NULL);
    }
    assert_true(n > 80);
}

/* Runs that make careless expressions take the square of the time; here a hang would be the failure. */
static size_t rows_one_in = 1;

static void no_row_minds_long_runs(void **state) {
    (void)state;
    static const char runs[][4] = {" ", "\n", "a", "A", "1", "!", "é", "中", " \t", "aB", "a ", "'s", "\xCC\x81"};
    enum { N_BYTES = 60000 };
    static char text[N_BYTES + 4], out[3 * N_BYTES];
    for (size_t n = 0; kvq_pretokenizer_name(n); n++)
        for (size_t r = 0; n % rows_one_in == 0 && r < sizeof runs / sizeof *runs; r++) {
            size_t n_bytes = 0;
            while (n_bytes + strlen(runs[r]) <= N_BYTES) {
                memcpy(text + n_bytes, runs[r], strlen(runs[r]));
                n_bytes += strlen(runs[r]);
            }
            split(kvq_pretokenizer_name(n), false, text, n_bytes, out, sizeof out);
        }
}

/* ---- back to text -------------------------------------------------------------------------------------------------
 */

static void detokenizer_never_cuts_a_character(void **state) {
    (void)state;
    kvq_detokenizer d = {0};
    char out[64];
    static const uint8_t smile[] = {0xF0, 0x9F, 0x98, 0x80};
    for (int i = 0; i < 3; i++) assert_int_equal(kvq_detokenize(tokenizer, &d, smile[i], false, out, sizeof out), 0);
    assert_int_equal(kvq_detokenize(tokenizer, &d, smile[3], false, out, sizeof out), 4);
    assert_memory_equal(out, smile, 4);
    assert_int_equal(kvq_detokenize_end(&d, out, sizeof out), 0);
}

static void detokenizer_replaces_what_can_be_no_character(void **state) {
    (void)state;
    static const struct {
        const char *bytes, *text, *at_end;
    } rows[] = {
        {"\xFF"
         "a",
         "\xEF\xBF\xBD"
         "a",
         ""},
        {"\xF0\x9F"
         "a",
         "\xEF\xBF\xBD"
         "a",
         ""},                                                         /* a start that breaks off is one */
        {"\xE2\x82", "", "\xEF\xBF\xBD"},                             /* and so is one at the end */
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD", ""}, /* a surrogate: three wrong bytes */
        {"\xC0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD", ""},
        {"\xF4\x90"
         "b",
         "\xEF\xBF\xBD\xEF\xBF\xBD"
         "b",
         ""},
        {"\xE2\xE2\x82\xAC", "\xEF\xBF\xBD\xE2\x82\xAC", ""},
        {"\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        kvq_detokenizer d = {0};
        char out[128];
        size_t n = 0;
        for (const char *b = rows[i].bytes; *b; b++)
            n += kvq_detokenize(tokenizer, &d, (uint8_t)*b, false, out + n, sizeof out - n);
        out[n] = '\0';
        assert_string_equal(out, rows[i].text);
        n = kvq_detokenize_end(&d, out, sizeof out);
        out[n] = '\0';
        assert_string_equal(out, rows[i].at_end);
    }
}

static void detokenizer_drops_the_space_that_sentencepiece_added(void **state) {
    (void)state;
    kvq_detokenizer d = {0};
    char out[64];
    size_t n = kvq_detokenize(tokenizer, &d, 1, false, out, sizeof out); /* BOS says nothing and starts nothing */
    n += kvq_detokenize(tokenizer, &d, 264, false, out + n, sizeof out - n);
    n += kvq_detokenize(tokenizer, &d, 264, false, out + n, sizeof out - n);
    assert_int_equal(n, 3);
    assert_memory_equal(out, "a a", 3);
}

static void sentencepiece_adds_no_space_within_a_text(void **state) {
    (void)state;
    const kvq_encode_options rest = {.parse_special = true, .goes_on = true};
    ENCODES("a", parsed, 264);
    ENCODES("a", rest, 260);
    ENCODES(" a", rest, 264);
    ENCODES("a<end_of_turn>a", rest, 260, 267, 264); /* behind a control token a text begins */
    ENCODES("<end_of_turn>a", rest, 267, 264);
    assert_true(kvq_tokenizer_is_text(tokenizer, 260));
    assert_true(kvq_tokenizer_is_text(tokenizer, 3 + 'x')); /* a byte */
    const int marks[] = {0, 1, 266, 267, -1, N_SPM};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) assert_false(kvq_tokenizer_is_text(tokenizer, marks[i]));
    kvq_detokenizer d = {.started = true};
    char out[64];
    assert_int_equal(kvq_detokenize(tokenizer, &d, 264, false, out, sizeof out), 2);
    assert_memory_equal(out, " a", 2);
}

/* ---- memory -------------------------------------------------------------------------------------------------------
 */

static kvq_status open_and_encode(kvq_error *err) {
    kvq_tokenizer *t = NULL;
    kvq_status status = kvq_tokenizer_open(gguf, &t, err);
    static const char text[] = "<|im_start|>hello world\xFF<tag>a<end_of_turn>\xED\xA0\x80 hello hello hello";
    for (int i = 0; !status && i < 2; i++) {
        int *ids = NULL;
        size_t n = 0;
        status = kvq_tokenizer_encode(t, text, sizeof text - 1, i ? parsed : added, &ids, &n, err);
        free(ids);
    }
    kvq_tokenizer_free(t);
    return status;
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    for (int n = 0;; n++) {
        kvq_error err = {0};
        allocations_left = n;
        kvq_status status = open_and_encode(&err);
        bool all_done = allocations_left >= 0;
        allocations_left = -1;
        if (all_done) {
            assert_int_equal(status, KVQ_OK);
            assert_true(n > 10);
            return;
        }
        if (status) { /* PCRE2 may do without its JIT stack */
            assert_int_equal(status, KVQ_NO_MEMORY);
            assert_non_null(strstr(err.text, "no memory"));
        }
    }
}

int main(int argc, char **argv) {
    if (is_sample(argc, argv)) rows_one_in = 6;
    const struct CMUnitTest tests[] = {
#define BPE_TEST(name) cmocka_unit_test_setup_teardown(name, set_up_bpe, tear_down)
#define SPM_TEST(name) cmocka_unit_test_setup_teardown(name, set_up_spm, tear_down)
        BPE_TEST(bpe_merges_by_rank_not_by_position),
        BPE_TEST(bpe_symbols_that_are_no_token_become_their_bytes),
        BPE_TEST(bpe_bytes_that_are_no_character_become_the_replacement_character),
        BPE_TEST(special_tokens_are_cut_out_where_they_are_parsed),
        BPE_TEST(user_defined_tokens_are_always_cut_out_the_longest_first),
        BPE_TEST(bos_and_eos_are_added_where_the_file_asks),
        BPE_TEST(ignore_merges_takes_a_whole_word_that_is_a_token),
        BPE_TEST(what_ends_a_generation_is_found_by_id_and_by_name),
        BPE_TEST(bpe_pieces_are_bytes_and_control_tokens_are_silent),
        BPE_TEST(a_word_of_a_million_bytes_is_no_matter),
        BPE_TEST(whoever_watches_sees_how_far_it_is_and_may_stop_it),
        SPM_TEST(whoever_watches_sees_how_far_it_is_and_may_stop_it),
        SPM_TEST(spm_merges_by_score_and_puts_a_space_first),
        SPM_TEST(spm_puts_its_space_after_special_tokens_only),
        SPM_TEST(spm_falls_back_to_bytes_and_so_keeps_invalid_text),
        SPM_TEST(phi_3s_special_tokens_swallow_the_white_space_after_them),
        cmocka_unit_test_setup_teardown(vocabularies_that_are_wrong_are_refused, set_up_nothing, tear_down),
        cmocka_unit_test_setup_teardown(odd_vocabularies_do_no_harm, set_up_nothing, tear_down),
        cmocka_unit_test(rows_cut_where_their_models_do),
        cmocka_unit_test(every_row_cuts_alike_with_and_without_machine_code),
        cmocka_unit_test(no_row_minds_long_runs),
        BPE_TEST(detokenizer_never_cuts_a_character),
        BPE_TEST(detokenizer_replaces_what_can_be_no_character),
        SPM_TEST(detokenizer_drops_the_space_that_sentencepiece_added),
        SPM_TEST(sentencepiece_adds_no_space_within_a_text),
        BPE_TEST(every_allocation_may_fail),
        SPM_TEST(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
