/* template_lex.c: a template's text to tokens. Called by template.c once per load; template_parse.c reads the tokens.
 *
 * The rules are those of Jinja2's lexer with trim_blocks and lstrip_blocks: a newline after a block's or comment's end
 * goes, white space between the start of a line and a block or comment goes; "-" inside a tag takes all white space on
 * its side,
 * "+" keeps it; line ends become \n and one at the end of the template goes. Inside a tag, its end counts only when all
 * brackets are closed, so that {{ {'a': {}} }} ends where it should. */
#include <stdio.h>
#include <string.h>

#include "template_internal.h"

enum { MAX_BRACKETS = 200 };

typedef struct lexer {
    kvq_tpl_run *r;
    const char *text;
    size_t n, at;
    bool line_starting; /* what was matched last ended with a newline */
    char brackets[MAX_BRACKETS];
    int n_brackets;
    kvq_tpl_tokens *tokens;
} lexer;

/* Operators, longer ones first; END closes the list. */
static const struct operator_row {
    const char *text;
    kvq_tpl_token_kind kind;
} operators[] = {
    {"//", KVQ_TPL_TOKEN_FLOORDIV}, {"**", KVQ_TPL_TOKEN_POW},      {"==", KVQ_TPL_TOKEN_EQ},
    {"!=", KVQ_TPL_TOKEN_NE},       {">=", KVQ_TPL_TOKEN_GE},       {"<=", KVQ_TPL_TOKEN_LE},
    {"+", KVQ_TPL_TOKEN_ADD},       {"-", KVQ_TPL_TOKEN_SUB},       {"/", KVQ_TPL_TOKEN_DIV},
    {"*", KVQ_TPL_TOKEN_MUL},       {"%", KVQ_TPL_TOKEN_MOD},       {"~", KVQ_TPL_TOKEN_TILDE},
    {"[", KVQ_TPL_TOKEN_LBRACKET},  {"]", KVQ_TPL_TOKEN_RBRACKET},  {"(", KVQ_TPL_TOKEN_LPAREN},
    {")", KVQ_TPL_TOKEN_RPAREN},    {"{", KVQ_TPL_TOKEN_LBRACE},    {"}", KVQ_TPL_TOKEN_RBRACE},
    {">", KVQ_TPL_TOKEN_GT},        {"<", KVQ_TPL_TOKEN_LT},        {"=", KVQ_TPL_TOKEN_ASSIGN},
    {".", KVQ_TPL_TOKEN_DOT},       {":", KVQ_TPL_TOKEN_COLON},     {"|", KVQ_TPL_TOKEN_PIPE},
    {",", KVQ_TPL_TOKEN_COMMA},     {";", KVQ_TPL_TOKEN_SEMICOLON}, {NULL, KVQ_TPL_TOKEN_END},
};

const char *kvq_tpl_token_name(kvq_tpl_token_kind kind) {
    static const char *const names[] = {[KVQ_TPL_TOKEN_END] = "end of template", [KVQ_TPL_TOKEN_DATA] = "text",
                                        [KVQ_TPL_TOKEN_BLOCK_BEGIN] = "{%",      [KVQ_TPL_TOKEN_BLOCK_END] = "%}",
                                        [KVQ_TPL_TOKEN_VARIABLE_BEGIN] = "{{",   [KVQ_TPL_TOKEN_VARIABLE_END] = "}}",
                                        [KVQ_TPL_TOKEN_NAME] = "name",           [KVQ_TPL_TOKEN_STRING] = "string",
                                        [KVQ_TPL_TOKEN_INTEGER] = "integer",     [KVQ_TPL_TOKEN_REAL] = "float"};
    for (const struct operator_row *row = operators; row->text; row++)
        if (row->kind == kind) return row->text;
    return names[kind];
}

static void push(lexer *l, kvq_tpl_token_kind kind, kvq_tpl_value value) {
    kvq_tpl_tokens *t = l->tokens;
    if (t->n == t->capacity) {
        size_t capacity = t->capacity ? t->capacity * 2 : 64;
        kvq_tpl_token *at = kvq_tpl_alloc_array(l->r, capacity, sizeof *at);
        if (t->n) memcpy(at, t->at, t->n * sizeof *at);
        t->at = at;
        t->capacity = capacity;
    }
    t->at[t->n++] = (kvq_tpl_token){kind, l->r->line, value};
}

static void count_lines(lexer *l, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) l->r->line += l->text[i] == '\n';
}

/* Moves on to `to`, counting lines. */
static void advance(lexer *l, size_t to) {
    count_lines(l, l->at, to);
    l->line_starting = to > l->at && l->text[to - 1] == '\n';
    l->at = to;
}

static bool starts(const lexer *l, size_t at, const char *with) {
    size_t n = strlen(with);
    return n <= l->n - at && memcmp(l->text + at, with, n) == 0;
}

static bool is_space_at(const lexer *l, size_t at) {
    return at < l->n && kvq_tpl_is_space(kvq_tpl_decode(l->text + at));
}

static size_t skip_space(const lexer *l, size_t at) {
    while (is_space_at(l, at)) at += kvq_tpl_char_bytes(l->text + at);
    return at;
}

static char char_at(const lexer *l, size_t at) {
    return at < l->n ? l->text[at] : '\0';
}

/* ---- outside of tags ------------------------------------------------------------------------------------------- */

/* The text before a tag, less what the tag's sign or lstrip_blocks takes. */
static size_t strip_before(const lexer *l, size_t start, size_t end, char sign, bool is_variable) {
    kvq_tpl_string text = {l->text + start, end - start, 0};
    if (sign == '-') return start + kvq_tpl_strip(l->r, &text, NULL, false, true).as.text->n_bytes;
    if (sign == '+' || is_variable) return end;
    size_t line = end;
    while (line > start && l->text[line - 1] != '\n') line--;
    if (line == start && !l->line_starting) return end;
    return skip_space(l, line) >= end ? line : end;
}

static void push_data(lexer *l, size_t start, size_t end) {
    if (end > start) push(l, KVQ_TPL_TOKEN_DATA, kvq_tpl_text(l->r, l->text + start, end - start));
}

/* Where an end tag at `at` ends when spelled with -, + or neither: white space, nothing, or one newline taken. 0: no
 * tag. */
static size_t end_of_tag(const lexer *l, size_t at, const char *tag, bool trim_newline) {
    if (char_at(l, at) == '-' && starts(l, at + 1, tag)) return skip_space(l, at + 3);
    if (trim_newline && char_at(l, at) == '+' && starts(l, at + 1, tag)) return at + 3;
    if (!starts(l, at, tag)) return 0;
    return at + 2 + (trim_newline && char_at(l, at + 2) == '\n');
}

static void skip_comment(lexer *l, size_t at) {
    for (; at + 1 < l->n; at++) {
        size_t end = end_of_tag(l, at, "#}", true);
        if (!end) continue;
        advance(l, end);
        return;
    }
    kvq_tpl_fail(l->r, KVQ_BAD_FILE, "a comment is not closed by '#}'");
}

/* After "{%" and a sign at `at`: where the content of a raw block begins, or 0. */
static size_t raw_begin(const lexer *l, size_t at) {
    at = skip_space(l, at);
    if (!starts(l, at, "raw")) return 0;
    at = skip_space(l, at + 3);
    return end_of_tag(l, at, "%}", false);
}

static void lex_raw(lexer *l) {
    for (size_t at = l->at; at + 1 < l->n; at++) {
        if (!starts(l, at, "{%")) continue;
        char sign = char_at(l, at + 2);
        size_t p = skip_space(l, at + 2 + (sign == '-' || sign == '+'));
        if (!starts(l, p, "endraw")) continue;
        size_t end = end_of_tag(l, skip_space(l, p + 6), "%}", true);
        if (!end) continue;
        push_data(l, l->at, strip_before(l, l->at, at, sign, false));
        advance(l, end);
        return;
    }
    kvq_tpl_fail(l->r, KVQ_BAD_FILE, "a raw block is not closed by '{%% endraw %%}'");
}

static void lex_tag(lexer *l, const char *end_tag, kvq_tpl_token_kind end_kind);

/* Up to the next tag and through it. False at the end. */
static bool lex_root(lexer *l) {
    size_t tag = l->at;
    while (tag + 1 < l->n && !(l->text[tag] == '{' && strchr("%{#", l->text[tag + 1]))) tag++;
    if (tag + 1 >= l->n) {
        push_data(l, l->at, l->n);
        return false;
    }
    char kind = l->text[tag + 1], sign = char_at(l, tag + 2);
    size_t inside = tag + 2 + (sign == '-' || sign == '+');
    push_data(l, l->at, strip_before(l, l->at, tag, sign, kind == '{'));
    advance(l, tag);
    size_t raw = kind == '%' ? raw_begin(l, inside) : 0;
    advance(l, raw ? raw : inside);
    if (raw) {
        lex_raw(l);
    } else if (kind == '#') {
        skip_comment(l, l->at);
    } else {
        push(l, kind == '%' ? KVQ_TPL_TOKEN_BLOCK_BEGIN : KVQ_TPL_TOKEN_VARIABLE_BEGIN, kvq_tpl_none);
        lex_tag(l, kind == '%' ? "%}" : "}}", kind == '%' ? KVQ_TPL_TOKEN_BLOCK_END : KVQ_TPL_TOKEN_VARIABLE_END);
    }
    return true;
}

/* ---- inside of tags -------------------------------------------------------------------------------------------- */

/* digits, single underscores between them. */
static size_t skip_digits(const lexer *l, size_t at, const char *digits) {
    while (char_at(l, at) && strchr(digits, char_at(l, at))) {
        at++;
        if (char_at(l, at) == '_' && char_at(l, at + 1) && strchr(digits, char_at(l, at + 1))) at++;
    }
    return at;
}

static const char decimal_digits[] = "0123456789";

/* The end of a float at `at`, or 0: a fraction, an exponent or both must follow the digits. */
static size_t end_of_real(const lexer *l, size_t at) {
    if (at > 0 && l->text[at - 1] == '.') return 0;
    size_t p = skip_digits(l, at, decimal_digits), end = 0;
    if (char_at(l, p) == '.' && skip_digits(l, p + 1, decimal_digits) > p + 1)
        end = p = skip_digits(l, p + 1, decimal_digits);
    if ((char_at(l, p) | 0x20) == 'e') {
        size_t e = p + 1 + (char_at(l, p + 1) == '+' || char_at(l, p + 1) == '-');
        if (skip_digits(l, e, decimal_digits) > e) end = skip_digits(l, e, decimal_digits);
    }
    return end;
}

static size_t end_of_integer(const lexer *l, size_t at) {
    static const struct {
        char letter;
        const char *digits;
    } prefixes[] = {{'b', "01"}, {'o', "01234567"}, {'x', "0123456789abcdefABCDEF"}};
    if (l->text[at] != '0') return skip_digits(l, at, decimal_digits);
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        if ((char_at(l, at + 1) | 0x20) != prefixes[i].letter) continue;
        size_t p = at + 2 + (char_at(l, at + 2) == '_');
        size_t end = skip_digits(l, p, prefixes[i].digits);
        if (end > p) return end;
    }
    return skip_digits(l, at, "0");
}

static void lex_number(lexer *l) {
    int64_t integer;
    double real;
    bool overflow;
    size_t end = end_of_real(l, l->at);
    if (end) {
        if (!kvq_tpl_parse_real(l->text + l->at, end - l->at, &real))
            kvq_tpl_fail(l->r, KVQ_BAD_FILE, "a number cannot be read");
        push(l, KVQ_TPL_TOKEN_REAL, kvq_tpl_real(real));
    } else {
        end = end_of_integer(l, l->at);
        if (!kvq_tpl_parse_int(l->text + l->at, end - l->at, 0, &integer, &overflow) || overflow)
            kvq_tpl_fail(l->r, KVQ_UNSUPPORTED, "an integer is too large for 64 bits");
        push(l, KVQ_TPL_TOKEN_INTEGER, kvq_tpl_int(integer));
    }
    advance(l, end);
}

static void lex_name(lexer *l) {
    size_t end = l->at;
    while (end < l->n && kvq_tpl_is_word(kvq_tpl_decode(l->text + end))) end += kvq_tpl_char_bytes(l->text + end);
    push(l, KVQ_TPL_TOKEN_NAME, kvq_tpl_text(l->r, l->text + l->at, end - l->at));
    advance(l, end);
}

static int32_t read_hex(lexer *l, size_t at, size_t end, int n_digits) {
    int64_t value = -1;
    bool overflow;
    for (int i = 0; i < n_digits; i++)
        if (at + i >= end || !strchr("0123456789abcdefABCDEF", l->text[at + i])) return -1;
    (void)kvq_tpl_parse_int(l->text + at, n_digits, 16, &value, &overflow); /* cannot fail: only hexadecimal digits */
    return value > 0x10FFFF || (value >= 0xD800 && value < 0xE000) ? -1 : (int32_t)value;
}

static size_t lex_octal(lexer *l, size_t at, size_t end) {
    int32_t value = 0;
    size_t n = 0;
    for (; n < 3 && at + n < end && l->text[at + n] >= '0' && l->text[at + n] <= '7'; n++)
        value = value * 8 + (l->text[at + n] - '0');
    kvq_tpl_put_point(l->r, value);
    return at + n;
}

/* The escape after a backslash at `at`; returns where it ends. Python's rules, those of its "unicode-escape" codec: a
 * backslash before a character beyond ASCII gives the backslash and that character's own escape. */
static size_t lex_escape(lexer *l, size_t at, size_t end) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = l->text[at];
    const char *simple = strchr(from, c);
    if (c == '\n') return at + 1;
    if (simple && c) {
        kvq_tpl_put_char(l->r, to[simple - from]);
        return at + 1;
    }
    if (c >= '0' && c <= '7') return lex_octal(l, at, end);
    if (c == 'x' || c == 'u' || c == 'U') {
        int n_digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        int32_t point = read_hex(l, at + 1, end, n_digits);
        if (point < 0)
            kvq_tpl_fail(l->r, KVQ_BAD_FILE, "'\\%c' needs %d hexadecimal digits of a character", c, n_digits);
        kvq_tpl_put_point(l->r, point);
        return at + 1 + n_digits;
    }
    if (c == 'N') kvq_tpl_fail(l->r, KVQ_UNSUPPORTED, "'\\N{...}' in a string is not supported");
    kvq_tpl_put_char(l->r, '\\');
    if ((unsigned char)c < 0x80) {
        kvq_tpl_put_char(l->r, c);
        return at + 1;
    }
    char text[16];
    int32_t point = kvq_tpl_decode(l->text + at);
    (void)snprintf(text, sizeof text, point < 0x100 ? "x%02x" : point < 0x10000 ? "u%04x" : "U%08x", (unsigned)point);
    kvq_tpl_put_text(l->r, text);
    return at + kvq_tpl_char_bytes(l->text + at);
}

static void lex_string(lexer *l) {
    char quote = l->text[l->at];
    size_t end = l->at + 1, mark = l->r->n_out;
    while (end < l->n && l->text[end] != quote) end += l->text[end] == '\\' ? 2 : 1;
    if (end >= l->n) kvq_tpl_fail(l->r, KVQ_BAD_FILE, "a string is not closed by %c", quote);
    for (size_t at = l->at + 1; at < end;) {
        if (l->text[at] == '\\')
            at = lex_escape(l, at + 1, end);
        else
            kvq_tpl_put_char(l->r, l->text[at++]);
    }
    push(l, KVQ_TPL_TOKEN_STRING, kvq_tpl_take(l->r, mark));
    advance(l, end + 1);
}

static void check_bracket(lexer *l, char c) {
    static const char openers[] = "([{", closers[] = ")]}";
    const char *opener = strchr(openers, c), *closer = strchr(closers, c);
    if (opener) {
        if (l->n_brackets == MAX_BRACKETS) kvq_tpl_fail(l->r, KVQ_NO_SPACE, "more than %d open brackets", MAX_BRACKETS);
        l->brackets[l->n_brackets++] = closers[opener - openers];
    } else if (closer) {
        if (l->n_brackets == 0) kvq_tpl_fail(l->r, KVQ_BAD_FILE, "unexpected '%c'", c);
        if (l->brackets[--l->n_brackets] != c)
            kvq_tpl_fail(l->r, KVQ_BAD_FILE, "unexpected '%c', expected '%c'", c, l->brackets[l->n_brackets]);
    }
}

static void lex_operator(lexer *l) {
    for (const struct operator_row *row = operators; row->text; row++) {
        if (!starts(l, l->at, row->text)) continue;
        if (!row->text[1]) check_bracket(l, row->text[0]);
        push(l, row->kind, kvq_tpl_none);
        advance(l, l->at + strlen(row->text));
        return;
    }
    kvq_tpl_fail(l->r, KVQ_BAD_FILE, "unexpected character '%.*s'", (int)kvq_tpl_char_bytes(l->text + l->at),
                 l->text + l->at);
}

static void lex_tag(lexer *l, const char *end_tag, kvq_tpl_token_kind end_kind) {
    l->n_brackets = 0;
    for (;;) {
        if (l->at >= l->n) return; /* the parser sees the missing end */
        size_t end = l->n_brackets ? 0 : end_of_tag(l, l->at, end_tag, end_kind == KVQ_TPL_TOKEN_BLOCK_END);
        if (end) {
            push(l, end_kind, kvq_tpl_none);
            advance(l, end);
            return;
        }
        char c = l->text[l->at];
        if (is_space_at(l, l->at))
            advance(l, skip_space(l, l->at));
        else if (c >= '0' && c <= '9')
            lex_number(l);
        else if (c == '\'' || c == '"')
            lex_string(l);
        else if (kvq_tpl_is_word(kvq_tpl_decode(l->text + l->at)))
            lex_name(l);
        else
            lex_operator(l);
    }
}

/* A copy with all line ends as \n, less one at the very end. */
static kvq_tpl_value normalize(kvq_tpl_run *r, const char *source, size_t n) {
    size_t mark = r->n_out;
    for (size_t i = 0; i < n; i++) {
        if (source[i] != '\r')
            kvq_tpl_put_char(r, source[i]);
        else if (i + 1 == n || source[i + 1] != '\n')
            kvq_tpl_put_char(r, '\n');
    }
    if (r->n_out > mark && r->out[r->n_out - 1] == '\n') r->n_out--;
    return kvq_tpl_take(r, mark);
}

void kvq_tpl_lex(kvq_tpl_run *r, const char *source, size_t n_bytes, kvq_tpl_tokens *ret) {
    kvq_tpl_value text = normalize(r, source, n_bytes);
    lexer l = {.r = r, .text = text.as.text->bytes, .n = text.as.text->n_bytes, .line_starting = true, .tokens = ret};
    r->line = 1;
    while (lex_root(&l)) continue;
    push(&l, KVQ_TPL_TOKEN_END, kvq_tpl_none);
}
