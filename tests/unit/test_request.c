/* test_request.c: engine/request.c: what a raw turn of a session becomes, with a SentencePiece vocabulary, whose spaces
 * depend on what went before. Everything else about requests is tests/engine/test_requests.c's business. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/request.h"
#include "gguf_file.h"

enum { UNK, BOS, EOS, A, B, SPACE_A, SPACE, MARK, N_TOKENS };
static const struct {
    const char *text;
    int32_t type;
    float score;
} tokens[N_TOKENS] = {
    [UNK] = {"<unk>", 2, 0}, [BOS] = {"<s>", 3, 0},     [EOS] = {"</s>", 3, 0}, [A] = {"a", 1, -3},
    [B] = {"b", 1, -3},      [SPACE_A] = {"▁a", 1, -1}, [SPACE] = {"▁", 1, -2}, [MARK] = {"<mark>", 4, 0},
};

static gguf_file file;
static kvq_gguf *gguf;
static kvq_tokenizer *tokenizer;
static kvq_text_tools tools;

static int set_up(void **state) {
    (void)state;
    kvq_error err = {0};
    start_file(&file);
    put_text_key(&file, "tokenizer.ggml.model", "llama");
    put_array_key(&file, "tokenizer.ggml.tokens", KVQ_GGUF_STRING, N_TOKENS);
    for (int i = 0; i < N_TOKENS; i++) put_text(&file, tokens[i].text);
    put_array_key(&file, "tokenizer.ggml.token_type", KVQ_GGUF_I32, N_TOKENS);
    for (int i = 0; i < N_TOKENS; i++) put(&file, &tokens[i].type, 4);
    put_array_key(&file, "tokenizer.ggml.scores", KVQ_GGUF_F32, N_TOKENS);
    for (int i = 0; i < N_TOKENS; i++) put(&file, &tokens[i].score, 4);
    if (open_file(&file, &gguf, &err) || kvq_tokenizer_open(gguf, &tokenizer, &err)) fail_msg("%s", err.text);
    tools = (kvq_text_tools){.tokenizer = tokenizer, .session_len = 64, .vocab_size = N_TOKENS, .longest_piece = 8};
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    kvq_tokenizer_free(tokenizer);
    kvq_gguf_close(gguf);
    end_file(&file);
    return 0;
}

/* A raw prompt behind what a session said ({-1}: there is none), as tokens; then the text of an answer "▁a". */
static void raw_turns_join_as_one_text(void **state) {
    (void)state;
    static const struct {
        int before[4];
        const char *prompt;
        int expected[6];
        const char *answer, *why;
    } cases[] = {
        {{-1}, "a", {BOS, SPACE_A, -1}, " a", "the text begins: a space before it, and the answer goes on"},
        {{-1}, "a<mark>", {BOS, SPACE_A, MARK, -1}, "a", "behind a mark a text begins, the answer's too"},
        {{BOS, SPACE_A, A, -1}, "b", {BOS, SPACE_A, A, B, -1}, " a", "'aa' and 'b' are 'aab'"},
        {{BOS, SPACE_A, A, -1}, " a", {BOS, SPACE_A, A, SPACE_A, -1}, " a", "'aa' and ' a' are 'aa a'"},
        {{BOS, SPACE_A, EOS, -1}, "a", {BOS, SPACE_A, EOS, SPACE_A, -1}, " a", "the answer had ended"},
        {{BOS, SPACE_A, MARK, -1}, "a", {BOS, SPACE_A, MARK, SPACE_A, -1}, " a", "as one text with a mark in it"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int before[4];
        memcpy(before, cases[i].before, sizeof before);
        kvq_session session = {.ids = before};
        while (session.n_ids < 4 && before[session.n_ids] >= 0) session.n_ids++;
        kvq_request r = kvq_default_request();
        r.raw = true;
        r.prompt = cases[i].prompt;
        r.max_tokens = 4;
        kvq_active *a = NULL;
        kvq_error err = {0};
        if (kvq_active_new(&r, &tools, &a, &err)) fail_msg("%s", err.text);
        if (session.n_ids) a->session = &session;
        if (kvq_active_prepare(a, &tools, &err)) fail_msg("%s: %s", cases[i].why, err.text);
        int n = 0;
        for (; cases[i].expected[n] >= 0; n++)
            if (n >= a->seq.n_prompt || a->seq.tokens[n] != cases[i].expected[n]) fail_msg("%s", cases[i].why);
        if (n != a->seq.n_prompt) fail_msg("%s: %d tokens, not %d", cases[i].why, a->seq.n_prompt, n);
        char text[64];
        size_t n_text = kvq_detokenize(tokenizer, &a->detokenizer, SPACE_A, false, text, sizeof text);
        if (n_text != strlen(cases[i].answer) || memcmp(text, cases[i].answer, n_text) != 0)
            fail_msg("%s: the answer is '%.*s'", cases[i].why, (int)n_text, text);
        kvq_active_free(a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(raw_turns_join_as_one_text, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
