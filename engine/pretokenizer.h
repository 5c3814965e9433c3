/* pretokenizer.h: cuts a text into the words inside which byte-level BPE merges (the table is pretokenizers.def).
 * Called by bpe.c alone. */
#ifndef KVQ_PRETOKENIZER_H
#define KVQ_PRETOKENIZER_H

#include <stdbool.h>
#include <stddef.h>

#include "gguf.h"
#include "meter.h"

/* Flags of a NAME row, explained there. */
enum {
    KVQ_PRE_IGNORE_MERGES = 1,
    KVQ_PRE_ADD_BOS = 2,
    KVQ_PRE_NO_BOS = 4,
    KVQ_PRE_PLAIN = 8,
    KVQ_PRE_ALWAYS_BOS = 16,
    KVQ_PRE_LINE_TOKENS = 32
};

typedef struct kvq_pretokenizer kvq_pretokenizer;

/* use_jit: compile the expressions to machine code where the system lets memory be made executable; without it, or
 * where it does not (systemd's MemoryDenyWriteExecute), they are interpreted, with the same results. Errors:
 * KVQ_UNSUPPORTED (no row has this name), KVQ_NO_MEMORY, KVQ_INTERNAL (an expression does not compile). */
kvq_status kvq_pretokenizer_open(kvq_text name, bool use_jit, kvq_pretokenizer **ret, kvq_error *err);
void kvq_pretokenizer_free(kvq_pretokenizer *p);
unsigned kvq_pretokenizer_flags(const kvq_pretokenizer *p);

/* Row i of the names; NULL behind the last. For tests and messages. */
const char *kvq_pretokenizer_name(size_t i);

/* Ends of pieces, in order; the last is the end of the text. Init with zeros, free data. */
typedef struct kvq_pieces {
    int *ends;
    size_t n, capacity;
} kvq_pieces;

/* text: decodable UTF-8 (bpe.c repairs it before), at most INT_MAX bytes. spare: scratch of the caller, as pieces.
 * Errors: KVQ_NO_MEMORY, KVQ_INTERNAL (PCRE2 gives up), KVQ_CANCELLED. */
kvq_status kvq_pretokenizer_split(const kvq_pretokenizer *p, const char *text, int n_bytes, const kvq_meter *meter,
                                  kvq_pieces *pieces, kvq_pieces *spare, kvq_error *err);

#endif
