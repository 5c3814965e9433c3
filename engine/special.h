/* special.h: cuts the special tokens written in a text ("<|im_start|>") out of it, before a tokenizer family sees the
 * rest. Called by tokenizer.c. */
#ifndef KVQ_SPECIAL_H
#define KVQ_SPECIAL_H

#include <stdbool.h>
#include <stddef.h>

#include "vocab.h"

/* A set of tokens, sorted by text so that a text can be followed byte by byte through it. */
typedef struct kvq_special {
    int *ids;          /* [n] */
    size_t first[257]; /* ids[first[b] .. first[b + 1]) start with byte b */
    size_t n, longest_bytes;
} kvq_special;

/* A stretch of text (id -1) or one special token. */
typedef struct kvq_fragment {
    size_t offset, n_bytes;
    int id;
} kvq_fragment;

/* The tokens of v that have one of the attributes `with` and none of `without`. False: no memory. */
bool kvq_special_init(kvq_special *s, const kvq_vocab *v, unsigned with, unsigned without);
void kvq_special_done(kvq_special *s);

/* ret: owned by the caller after return (free); its texts are not empty. False: no memory. */
bool kvq_special_cut(const kvq_special *s, const kvq_vocab *v, const char *text, size_t n_bytes, kvq_fragment **ret,
                     size_t *ret_n);

#endif
