/* status.c: names and sentences of the status list, and how to fail. Called by every room. */
#include "status.h"

#include <stdio.h>
#include <string.h>

static const char *const status_names[] = {
#define KVQ_X(name, text, sentence) text,
    KVQ_STATUS_MAP(KVQ_X)
#undef KVQ_X
};

static const char *const status_sentences[] = {
#define KVQ_X(name, text, sentence) sentence,
    KVQ_STATUS_MAP(KVQ_X)
#undef KVQ_X
};

/* Drops the bytes of a character that the buffer's end cut in two, so that the text stays UTF-8. */
static void cut_on_character(char *text) {
    size_t end = strlen(text);
    size_t start = end;
    while (start > 0 && ((unsigned char)text[start - 1] & 0xC0) == 0x80 && end - start < 3) start--;
    if (start == 0) return;
    unsigned char lead = (unsigned char)text[start - 1];
    size_t want = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (lead >= 0xC0 && end - start + 1 < want) text[start - 1] = '\0';
}

static void fill(kvq_error *err, kvq_status code, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));
static void fill(kvq_error *err, kvq_status code, const char *format, va_list args) {
    err->code = code;
    int n = vsnprintf(err->text, sizeof err->text, format, args);
    if (n < 0) err->text[0] = '\0';
    if (n >= (int)sizeof err->text) cut_on_character(err->text);
}

kvq_status kvq_fail(kvq_error *err, kvq_status code, const char *format, ...) {
    if (!err) return code;
    va_list args;
    va_start(args, format);
    fill(err, code, format, args);
    va_end(args);
    return code;
}

void kvq_fail_first(kvq_error *err, kvq_status code, const char *format, va_list args) {
    if (err->code == KVQ_OK) fill(err, code, format, args);
}

const char *kvq_status_name(kvq_status code) {
    return (unsigned)code < KVQ_STATUS_COUNT ? status_names[code] : "?";
}

const char *kvq_status_sentence(kvq_status code) {
    return (unsigned)code < KVQ_STATUS_COUNT ? status_sentences[code] : "?";
}
