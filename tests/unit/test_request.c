/* test_request.c: engine/request.c: what a turn of a session becomes, raw or through a template, with a SentencePiece
 * vocabulary, whose spaces depend on what went before; and what the sampler is told of a request. Everything else about
 * requests is tests/engine/test_requests.c's business. */
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

/* The prompt r as tokens, behind what a session said; before ends with -1, and so does expected. */
static kvq_active *check_turn(const kvq_request *r, const int *before, const int *expected, const char *why) {
    static int ids[8];
    static char roles[][KVQ_MAX_ROLE_BYTES + 1] = {"user", "assistant"};
    static kvq_session session;
    session = (kvq_session){.ids = ids, .roles = roles, .n_roles = 2};
    for (; before[session.n_ids] >= 0; session.n_ids++) ids[session.n_ids] = before[session.n_ids];
    kvq_active *a = NULL;
    kvq_error err = {0};
    if (kvq_active_new(r, &tools, &a, &err)) fail_msg("%s", err.text);
    if (session.n_ids) a->session = &session;
    if (kvq_active_prepare(a, &tools, &err)) fail_msg("%s: %s", why, err.text);
    int n = 0;
    for (; expected[n] >= 0; n++)
        if (n >= a->seq.n_prompt || a->seq.tokens[n] != expected[n]) fail_msg("%s: token %d", why, n);
    if (n != a->seq.n_prompt) fail_msg("%s: %d tokens, not %d", why, a->seq.n_prompt, n);
    return a;
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
        kvq_request r = kvq_default_request();
        r.raw = true;
        r.prompt = cases[i].prompt;
        r.max_tokens = 4;
        kvq_active *a = check_turn(&r, cases[i].before, cases[i].expected, cases[i].why);
        char text[64];
        size_t n_text = kvq_detokenize(tokenizer, &a->detokenizer, SPACE_A, false, text, sizeof text);
        if (n_text != strlen(cases[i].answer) || memcmp(text, cases[i].answer, n_text) != 0)
            fail_msg("%s: the answer is '%.*s'", cases[i].why, (int)n_text, text);
        kvq_active_free(a);
    }
}

#define TEMPLATE_CLOSING(text)                                                    \
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + m.content }}" \
    "{% else %}{{ ' ' + m.content + " text " }}{% endif %}{% endfor %}"

/* What a template closes an answer with, where the model closed it itself, and where it was cut. */
static void an_answer_is_closed_once(void **state) {
    (void)state;
    static const struct {
        const char *template;
        int before[4], expected[8];
        const char *why;
    } cases[] = {
        {TEMPLATE_CLOSING("eos_token"), {BOS, A, EOS, -1}, {BOS, A, EOS, BOS, SPACE_A, -1}, "closed by the model"},
        {TEMPLATE_CLOSING("eos_token"), {BOS, A, -1}, {BOS, A, EOS, BOS, SPACE_A, -1}, "closed by the template"},
        {TEMPLATE_CLOSING("' ' + eos_token"), {BOS, A, EOS, -1}, {BOS, A, EOS, BOS, SPACE_A, -1}, "as llama 2 does"},
        {TEMPLATE_CLOSING("' ' + eos_token"), {BOS, A, -1}, {BOS, A, SPACE, EOS, BOS, SPACE_A, -1}, "llama 2, cut"},
        {TEMPLATE_CLOSING("' '"), {BOS, A, EOS, -1}, {BOS, A, EOS, SPACE, SPACE, BOS, SPACE_A, -1}, "not to be closed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kvq_template *t = NULL;
        kvq_error err = {0};
        if (kvq_template_parse(cases[i].template, strlen(cases[i].template), &t, &err)) fail_msg("%s", err.text);
        kvq_request r = kvq_default_request();
        r.prompt = "a";
        r.max_tokens = 4;
        tools.chat_template = t;
        kvq_active_free(check_turn(&r, cases[i].before, cases[i].expected, cases[i].why));
        kvq_template_free(t);
    }
}

/* One field of a request at a time is set to a value that no other field has: it, and nothing else, is another in what
 * the sampler is told. */
static void how_a_token_is_drawn_is_taken_over_field_by_field(void **state) {
    (void)state;
#define FIELD(name, of_type) \
    { #name, offsetof(kvq_request, name), offsetof(kvq_sampling, name), of_type }
    enum type { FLOAT, INT, UINT64 };
    static const struct {
        const char *name;
        size_t from, to;
        enum type type;
    } fields[] = {FIELD(temperature, FLOAT),
                  FIELD(top_p, FLOAT),
                  FIELD(min_p, FLOAT),
                  FIELD(top_k, INT),
                  FIELD(repetition_penalty, FLOAT),
                  FIELD(presence_penalty, FLOAT),
                  FIELD(frequency_penalty, FLOAT),
                  FIELD(seed, UINT64)};
    static const size_t bytes[] = {[FLOAT] = sizeof(float), [INT] = sizeof(int), [UINT64] = sizeof(uint64_t)};
    const size_t n_fields = sizeof fields / sizeof *fields;
    kvq_request d = kvq_default_request();
    d.prompt = "a";
    d.raw = d.has_seed = true;
    for (size_t i = 0; i < n_fields; i++) {
        const float as_float = 0.25f;
        const int as_int = 7;
        const uint64_t as_uint64 = UINT64_C(0x123456789abcdef0);
        const void *values[] = {[FLOAT] = &as_float, [INT] = &as_int, [UINT64] = &as_uint64};
        kvq_request r = d;
        kvq_active *a = NULL;
        kvq_error err = {0};
        memcpy((char *)&r + fields[i].from, values[fields[i].type], bytes[fields[i].type]);
        if (kvq_active_new(&r, &tools, &a, &err)) fail_msg("%s: %s", fields[i].name, err.text);
        for (size_t k = 0; k < n_fields; k++) {
            const char *expected = k == i ? values[fields[k].type] : (const char *)&d + fields[k].from;
            if (memcmp((const char *)&a->sampling + fields[k].to, expected, bytes[fields[k].type]) != 0)
                fail_msg("with '%s' given, '%s' is not what it should be", fields[i].name, fields[k].name);
        }
        kvq_active_free(a);
    }
#undef FIELD
}

static void logit_biases_are_copied_in_order(void **state) {
    (void)state;
    kvq_token_bias bias[] = {{A, 1.5f}, {B, -2.5f}, {MARK, 0.5f}};
    kvq_request r = kvq_default_request();
    kvq_active *a = NULL;
    kvq_error err = {0};
    r.prompt = "a";
    r.raw = true;
    r.logit_bias = bias;
    r.n_logit_bias = 3;
    if (kvq_active_new(&r, &tools, &a, &err)) fail_msg("%s", err.text);
    memset(bias, 0, sizeof bias); /* the caller's are his again */
    static const kvq_logit_bias expected[] = {{A, 1.5f}, {B, -2.5f}, {MARK, 0.5f}};
    assert_int_equal(a->sampling.n_logit_bias, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(a->sampling.logit_bias[i].id, expected[i].id);
        assert_true(a->sampling.logit_bias[i].bias == expected[i].bias);
    }
    kvq_active_free(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(raw_turns_join_as_one_text, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_answer_is_closed_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(how_a_token_is_drawn_is_taken_over_field_by_field, set_up, tear_down),
        cmocka_unit_test_setup_teardown(logit_biases_are_copied_in_order, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
