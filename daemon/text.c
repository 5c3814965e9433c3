/* text.c: UTF-8 from outside. See text.h. */
#include "text.h"

#include <string.h>

/* Table 3-7 of the Unicode standard: the lead byte gives the length and the range of the second byte. */
static size_t character_bytes(const unsigned char *s, size_t n) {
    unsigned char low = 0x80, high = 0xBF;
    size_t want;
    if (s[0] < 0x80) return s[0] != 0;
    if (s[0] >= 0xC2 && s[0] <= 0xDF)
        want = 2;
    else if (s[0] >= 0xE0 && s[0] <= 0xEF)
        want = 3;
    else if (s[0] >= 0xF0 && s[0] <= 0xF4)
        want = 4;
    else
        return 0;
    if (s[0] == 0xE0) low = 0xA0;
    if (s[0] == 0xED) high = 0x9F;
    if (s[0] == 0xF0) low = 0x90;
    if (s[0] == 0xF4) high = 0x8F;
    if (n < want || s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < want; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    return want;
}

bool text_is_valid(const void *bytes, size_t n_bytes) {
    const unsigned char *s = bytes;
    for (size_t i = 0, n; i < n_bytes; i += n) {
        n = character_bytes(s + i, n_bytes - i);
        if (n == 0) return false;
    }
    return true;
}

void text_mend(char *text) {
    text_mend_bytes(text, strlen(text));
}

void text_mend_bytes(char *text, size_t n_bytes) {
    for (size_t i = 0, n; i < n_bytes; i += n) {
        n = character_bytes((const unsigned char *)text + i, n_bytes - i);
        if (n) continue;
        text[i] = '?';
        n = 1;
    }
}
