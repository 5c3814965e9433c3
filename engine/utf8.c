/* utf8.c: the few things about UTF-8 that tokenizers need beyond utf8proc, which knows only whole, valid characters.
 * Called by bpe.c, spm.c and tokenizer.c. */
#include "utf8.h"

int kvq_utf8_put(uint32_t c, char *out) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t leads[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (int i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (c & 0x3F));
        c >>= 6;
    }
    out[0] = (char)(leads[n] | c);
    return n;
}

int kvq_utf8_get_loose(const char *bytes, size_t n_bytes, uint32_t *ret) {
    uint8_t lead = (uint8_t)bytes[0];
    if (lead < 0x80) {
        *ret = lead;
        return 1;
    }
    int n = kvq_utf8_announced(lead);
    if (n == 1 || lead >= 0xF8 || (size_t)n > n_bytes) return 0;
    static const uint8_t masks[] = {0, 0, 0x1F, 0x0F, 0x07};
    uint32_t c = lead & masks[n];
    for (int i = 1; i < n; i++) {
        if (((uint8_t)bytes[i] & 0xC0) != 0x80) return 0;
        c = c << 6 | ((uint8_t)bytes[i] & 0x3F);
    }
    if (c > 0x10FFFF) return 0;
    *ret = c;
    return n;
}

int kvq_utf8_check(const char *bytes, size_t n_bytes) {
    uint8_t lead = (uint8_t)bytes[0];
    if (lead < 0x80) return 1;
    if (lead < 0xC2 || lead > 0xF4) return -1;
    int n = kvq_utf8_announced(lead);
    for (int i = 1; i < n; i++) {
        if ((size_t)i >= n_bytes) return 0;
        uint8_t byte = (uint8_t)bytes[i];
        /* The second byte is narrower where overlong forms, surrogates and code points above U+10FFFF lie. */
        uint8_t least = i > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
        uint8_t most = i > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        if (byte < least || byte > most) return -i;
    }
    return n;
}
