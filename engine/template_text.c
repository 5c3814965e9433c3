/* template_text.c: what Python's str knows of Unicode: case, classes, white space, finding and splitting, by code
 * points over UTF-8. Called by the printing, filter and method files. Character properties come from utf8proc; every
 * string here is valid UTF-8, because sources, JSON and messages are checked or mended at the door. */
#define _GNU_SOURCE /* memmem */
#include <string.h>
#include <utf8proc.h>

#include "template_internal.h"

/* ---- UTF-8 ----------------------------------------------------------------------------------------------------- */

size_t kvq_tpl_char_bytes(const char *at) {
    unsigned char lead = (unsigned char)*at;
    return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

int32_t kvq_tpl_decode(const char *at) {
    const unsigned char *p = (const unsigned char *)at;
    if (p[0] < 0x80) return p[0];
    if (p[0] < 0xE0) return (p[0] & 0x1F) << 6 | (p[1] & 0x3F);
    if (p[0] < 0xF0) return (p[0] & 0x0F) << 12 | (p[1] & 0x3F) << 6 | (p[2] & 0x3F);
    return (p[0] & 0x07) << 18 | (p[1] & 0x3F) << 12 | (p[2] & 0x3F) << 6 | (p[3] & 0x3F);
}

static bool is_continuation(char c) {
    return ((unsigned char)c & 0xC0) == 0x80;
}

size_t kvq_tpl_count_chars(const char *bytes, size_t n_bytes) {
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++) n += !is_continuation(bytes[i]);
    return n;
}

size_t kvq_tpl_char_offset(kvq_tpl_run *r, const kvq_tpl_string *s, size_t i_char) {
    if (i_char >= s->n_chars) return s->n_bytes;
    if (s->n_chars == s->n_bytes) return i_char;
    kvq_tpl_charge(r, i_char / 16);
    size_t at = 0;
    for (; i_char > 0; i_char--) at += kvq_tpl_char_bytes(s->bytes + at);
    return at;
}

/* Bytes of the character that ends before `at`. */
static size_t char_before(const char *bytes, size_t at) {
    size_t n = 1;
    while (is_continuation(bytes[at - n])) n++;
    return n;
}

/* utf8proc_iterate refuses surrogates, overlong forms and what is past U+10FFFF. */
static size_t valid_char(const char *bytes, size_t n_bytes) {
    if ((unsigned char)bytes[0] < 0x80) return 1;
    utf8proc_int32_t c;
    utf8proc_ssize_t n =
        utf8proc_iterate((const utf8proc_uint8_t *)bytes, n_bytes > 4 ? 4 : (utf8proc_ssize_t)n_bytes, &c);
    return n > 0 ? (size_t)n : 0;
}

bool kvq_tpl_is_valid_utf8(const char *bytes, size_t n_bytes) {
    for (size_t at = 0; at < n_bytes;) {
        size_t n = valid_char(bytes + at, n_bytes - at);
        if (n == 0) return false;
        at += n;
    }
    return true;
}

kvq_tpl_value kvq_tpl_mend_utf8(kvq_tpl_run *r, const char *bytes, size_t n_bytes) {
    if (kvq_tpl_is_valid_utf8(bytes, n_bytes)) return kvq_tpl_copy_text(r, bytes, n_bytes);
    size_t mark = r->n_out;
    for (size_t at = 0; at < n_bytes;) {
        size_t n = valid_char(bytes + at, n_bytes - at);
        if (n)
            kvq_tpl_put(r, bytes + at, n);
        else
            kvq_tpl_put_text(r, "\xEF\xBF\xBD");
        at += n ? n : 1;
    }
    return kvq_tpl_take(r, mark);
}

void kvq_tpl_put_point(kvq_tpl_run *r, int32_t code_point) {
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t n = utf8proc_encode_char(code_point, bytes);
    kvq_tpl_put(r, (const char *)bytes, (size_t)n);
}

/* ---- classes --------------------------------------------------------------------------------------------------- */

static bool is_one_of(int32_t c, const int32_t (*ranges)[2], size_t n) {
    for (size_t i = 0; i < n; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1]) return true;
    return false;
}

bool kvq_tpl_is_space(int32_t c) {
    static const int32_t spaces[][2] = {{0x09, 0x0D},     {0x1C, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},
                                        {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F},
                                        {0x205F, 0x205F}, {0x3000, 0x3000}};
    return is_one_of(c, spaces, sizeof spaces / sizeof *spaces);
}

bool kvq_tpl_is_line_end(int32_t c) {
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool kvq_tpl_is_alpha(int32_t c) {
    utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool kvq_tpl_is_decimal(int32_t c) {
    return utf8proc_category(c) == UTF8PROC_CATEGORY_ND;
}

/* Unicode's Numeric_Type=Digit beside the decimals: superscripts, subscripts, circled and the like. */
bool kvq_tpl_is_digit(int32_t c) {
    static const int32_t digits[][2] = {{0xB2, 0xB3},       {0xB9, 0xB9},       {0x1369, 0x1371},   {0x19DA, 0x19DA},
                                        {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
                                        {0x2474, 0x247C},   {0x2488, 0x2490},   {0x24EA, 0x24EA},   {0x24F5, 0x24FD},
                                        {0x24FF, 0x24FF},   {0x2776, 0x277E},   {0x2780, 0x2788},   {0x278A, 0x2792},
                                        {0x10A40, 0x10A43}, {0x10E60, 0x10E68}, {0x11052, 0x1105A}, {0x1F100, 0x1F10A}};
    return kvq_tpl_is_decimal(c) || is_one_of(c, digits, sizeof digits / sizeof *digits);
}

static bool is_number(int32_t c) {
    utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO;
}

bool kvq_tpl_is_alnum(int32_t c) {
    return kvq_tpl_is_alpha(c) || is_number(c);
}

bool kvq_tpl_is_word(int32_t c) {
    return c == '_' || kvq_tpl_is_alnum(c);
}

bool kvq_tpl_is_printable(int32_t c) {
    if (c == ' ') return true;
    utf8proc_category_t k = utf8proc_category(c);
    return k != UTF8PROC_CATEGORY_CN && k < UTF8PROC_CATEGORY_ZS;
}

bool kvq_tpl_is_upper(int32_t c) {
    return utf8proc_category(c) == UTF8PROC_CATEGORY_LU;
}

bool kvq_tpl_is_lower(int32_t c) {
    return utf8proc_category(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA; /* Other_Lowercase of Latin-1 */
}

bool kvq_tpl_is_cased(int32_t c) {
    return kvq_tpl_is_upper(c) || kvq_tpl_is_lower(c) || utf8proc_category(c) == UTF8PROC_CATEGORY_LT;
}

/* ---- case ------------------------------------------------------------------------------------------------------ */

typedef struct special_case {
    int32_t point;
    int32_t upper[3], title[3]; /* 0 ends a shorter one */
} special_case;

static const special_case *find_special(int32_t c) {
#define POINTS(...) \
    { __VA_ARGS__ }
#define SPECIAL(point, upper, title) {point, upper, title},
    static const special_case specials[] = {
#include "template_case.def"
    };
#undef SPECIAL
#undef POINTS
    size_t low = 0, high = sizeof specials / sizeof *specials;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (specials[middle].point == c) return &specials[middle];
        if (specials[middle].point < c)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* Unicode's Case_Ignorable, near enough: marks, modifiers, format characters and a few signs inside words. */
static bool is_case_ignorable(int32_t c) {
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2019 || c == 0x2018 || c == 0x2024;
    }
}

/* Sigma ends a word: a cased letter before it and none after it, signs within words not counted (SpecialCasing.txt). */
static bool is_final_sigma(const kvq_tpl_string *s, size_t at) {
    bool cased_before = false;
    for (size_t i = at; i > 0;) {
        i -= char_before(s->bytes, i);
        int32_t c = kvq_tpl_decode(s->bytes + i);
        if (is_case_ignorable(c)) continue;
        cased_before = kvq_tpl_is_cased(c);
        break;
    }
    if (!cased_before) return false;
    for (size_t i = at + 2; i < s->n_bytes; i += kvq_tpl_char_bytes(s->bytes + i)) {
        int32_t c = kvq_tpl_decode(s->bytes + i);
        if (!is_case_ignorable(c)) return !kvq_tpl_is_cased(c);
    }
    return true;
}

static void put_lower(kvq_tpl_run *r, const kvq_tpl_string *s, size_t at, int32_t c) {
    if (c == 0x0130) { /* I with a dot: the dot stays */
        kvq_tpl_put_text(r, "i\xCC\x87");
    } else if (c == 0x03A3) {
        kvq_tpl_put_point(r, is_final_sigma(s, at) ? 0x03C2 : 0x03C3);
    } else {
        kvq_tpl_put_point(r, utf8proc_tolower(c));
    }
}

void kvq_tpl_put_case(kvq_tpl_run *r, kvq_tpl_case to, const kvq_tpl_string *s, size_t at) {
    int32_t c = kvq_tpl_decode(s->bytes + at);
    if (to == KVQ_TPL_LOWER) {
        put_lower(r, s, at, c);
        return;
    }
    const special_case *special = c < 0x80 ? NULL : find_special(c);
    if (!special) {
        kvq_tpl_put_point(r, to == KVQ_TPL_UPPER ? utf8proc_toupper(c) : utf8proc_totitle(c));
        return;
    }
    const int32_t *points = to == KVQ_TPL_UPPER ? special->upper : special->title;
    for (int i = 0; i < 3 && points[i]; i++) kvq_tpl_put_point(r, points[i]);
}

kvq_tpl_value kvq_tpl_change_case(kvq_tpl_run *r, kvq_tpl_case to, const kvq_tpl_string *s) {
    size_t mark = r->n_out;
    kvq_tpl_charge(r, s->n_chars / 16);
    for (size_t at = 0; at < s->n_bytes; at += kvq_tpl_char_bytes(s->bytes + at)) kvq_tpl_put_case(r, to, s, at);
    return kvq_tpl_take(r, mark);
}

/* ---- stripping, finding, replacing, splitting ------------------------------------------------------------------ */

static bool is_stripped(kvq_tpl_run *r, const char *at, const kvq_tpl_string *chars) {
    int32_t c = kvq_tpl_decode(at);
    kvq_tpl_charge(r, 1 + (chars ? chars->n_bytes / 16 : 0));
    if (!chars) return kvq_tpl_is_space(c);
    for (size_t i = 0; i < chars->n_bytes; i += kvq_tpl_char_bytes(chars->bytes + i))
        if (kvq_tpl_decode(chars->bytes + i) == c) return true;
    return false;
}

kvq_tpl_value kvq_tpl_strip(kvq_tpl_run *r, const kvq_tpl_string *s, const kvq_tpl_string *chars, bool left,
                            bool right) {
    size_t start = 0, end = s->n_bytes;
    while (left && start < end && is_stripped(r, s->bytes + start, chars))
        start += kvq_tpl_char_bytes(s->bytes + start);
    while (right && start < end) {
        size_t n = char_before(s->bytes, end);
        if (!is_stripped(r, s->bytes + end - n, chars)) break;
        end -= n;
    }
    if (start == 0 && end == s->n_bytes) return kvq_tpl_string_value(s);
    return kvq_tpl_text(r, s->bytes + start, end - start);
}

size_t kvq_tpl_find(kvq_tpl_run *r, const kvq_tpl_string *s, const kvq_tpl_string *needle, size_t from, size_t to) {
    if (from > to || needle->n_bytes > to - from) return SIZE_MAX;
    kvq_tpl_charge(r, (to - from) / 64);
    if (needle->n_bytes == 0) return from;
    const char *at = memmem(s->bytes + from, to - from, needle->bytes, needle->n_bytes);
    return at ? (size_t)(at - s->bytes) : SIZE_MAX;
}

size_t kvq_tpl_find_last(kvq_tpl_run *r, const kvq_tpl_string *s, const kvq_tpl_string *needle, size_t from,
                         size_t to) {
    if (from > to || needle->n_bytes > to - from) return SIZE_MAX;
    for (size_t at = to - needle->n_bytes;; at--) {
        if (at % 16 == 0) kvq_tpl_charge(r, 1 + needle->n_bytes / 64);
        if (memcmp(s->bytes + at, needle->bytes, needle->n_bytes) == 0) return at;
        if (at == from) return SIZE_MAX;
    }
}

/* An empty needle is found before every character and at the end. */
static kvq_tpl_value put_between(kvq_tpl_run *r, const kvq_tpl_string *s, const kvq_tpl_string *by, int64_t count) {
    size_t mark = r->n_out;
    for (size_t at = 0;; count--) {
        if (count != 0) kvq_tpl_put(r, by->bytes, by->n_bytes);
        if (at >= s->n_bytes) break;
        if (count == 0) {
            kvq_tpl_put(r, s->bytes + at, s->n_bytes - at);
            break;
        }
        size_t n = kvq_tpl_char_bytes(s->bytes + at);
        kvq_tpl_charge(r, 1);
        kvq_tpl_put(r, s->bytes + at, n);
        at += n;
    }
    return kvq_tpl_take(r, mark);
}

/* count < 0: all. */
kvq_tpl_value kvq_tpl_replace(kvq_tpl_run *r, const kvq_tpl_string *s, const kvq_tpl_string *old,
                              const kvq_tpl_string *by, int64_t count) {
    if (count == 0) return kvq_tpl_string_value(s);
    if (old->n_bytes == 0) return put_between(r, s, by, count);
    size_t mark = r->n_out, from = 0;
    for (; count != 0; count--) {
        size_t at = kvq_tpl_find(r, s, old, from, s->n_bytes);
        if (at == SIZE_MAX) break;
        kvq_tpl_charge(r, 1);
        kvq_tpl_put(r, s->bytes + from, at - from);
        kvq_tpl_put(r, by->bytes, by->n_bytes);
        from = at + old->n_bytes;
    }
    if (from == 0) {
        r->n_out = mark;
        return kvq_tpl_string_value(s);
    }
    kvq_tpl_put(r, s->bytes + from, s->n_bytes - from);
    return kvq_tpl_take(r, mark);
}

kvq_tpl_list *kvq_tpl_split_lines(kvq_tpl_run *r, const kvq_tpl_string *s, bool keep_ends) {
    kvq_tpl_list *lines = kvq_tpl_list_new(r, 0);
    size_t start = 0;
    for (size_t at = 0; at < s->n_bytes;) {
        int32_t c = kvq_tpl_decode(s->bytes + at);
        size_t n = kvq_tpl_char_bytes(s->bytes + at);
        if (!kvq_tpl_is_line_end(c)) {
            at += n;
            continue;
        }
        if (c == '\r' && at + 1 < s->n_bytes && s->bytes[at + 1] == '\n') n = 2;
        kvq_tpl_charge(r, 1);
        kvq_tpl_list_push(r, lines, kvq_tpl_text(r, s->bytes + start, at - start + (keep_ends ? n : 0)));
        at += n;
        start = at;
    }
    if (start < s->n_bytes) kvq_tpl_list_push(r, lines, kvq_tpl_text(r, s->bytes + start, s->n_bytes - start));
    kvq_tpl_charge(r, s->n_bytes / 32);
    return lines;
}

kvq_tpl_value kvq_tpl_escape(kvq_tpl_run *r, const kvq_tpl_string *s) {
    static const char *const names[128] = {
        ['&'] = "&amp;", ['<'] = "&lt;", ['>'] = "&gt;", ['\''] = "&#39;", ['"'] = "&#34;"};
    size_t mark = r->n_out, from = 0;
    for (size_t at = 0; at < s->n_bytes; at++) {
        unsigned char c = (unsigned char)s->bytes[at];
        if (c >= 128 || !names[c]) continue;
        kvq_tpl_put(r, s->bytes + from, at - from);
        kvq_tpl_put_text(r, names[c]);
        from = at + 1;
    }
    kvq_tpl_put(r, s->bytes + from, s->n_bytes - from);
    kvq_tpl_value v = kvq_tpl_take(r, mark);
    v.flag = KVQ_TPL_MARKUP;
    return v;
}
