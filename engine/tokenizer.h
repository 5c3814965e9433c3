/* tokenizer.h: text <-> token ids, for both families (byte-level BPE with the file's pre-tokenizer, SentencePiece with
 * byte fallback). Called by engine.c, template.c's users and tools. Ids are the same as llama.cpp's for any bytes. */
#ifndef KVQ_TOKENIZER_H
#define KVQ_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gguf.h"

typedef struct kvq_tokenizer kvq_tokenizer;

/* Reads tokenizer.ggml.* of the file (borrowed until kvq_tokenizer_free). Errors: KVQ_BAD_FILE, KVQ_UNSUPPORTED (a
 * model or pre-tokenizer that no table row knows, named), KVQ_NO_MEMORY. */
kvq_status kvq_tokenizer_open(const kvq_gguf *g, kvq_tokenizer **ret, kvq_error *err);
void kvq_tokenizer_free(kvq_tokenizer *t);

typedef struct kvq_encode_options {
    bool add_special;   /* BOS / EOS where the model's file asks for them (tokenizer.ggml.add_bos_token, ...) */
    bool parse_special; /* control tokens written in the text ("<|im_start|>") become their ids; else they are plain
                           text */
    bool goes_on;       /* the text is the rest of one whose ids are there: SentencePiece puts no space before it */
    /* Called now and then with the share done 0..1, at the end with 1; a non-zero return cancels. NULL allowed. */
    int (*progress)(void *user, double ratio);
    void *progress_user;
} kvq_encode_options;

/* ids: owned by the caller after return (free). Text may be any bytes. Errors: KVQ_NO_MEMORY, KVQ_NO_SPACE (above 700
 * MB), KVQ_INTERNAL (the regular expressions give up), KVQ_CANCELLED. */
kvq_status kvq_tokenizer_encode(const kvq_tokenizer *t, const char *text, size_t n_bytes, kvq_encode_options options,
                                int **ret_ids, size_t *ret_n, kvq_error *err);

int kvq_tokenizer_n_vocab(const kvq_tokenizer *t);
int kvq_tokenizer_bos(const kvq_tokenizer *t); /* -1 if none */
int kvq_tokenizer_eos(const kvq_tokenizer *t);
bool kvq_tokenizer_adds_bos(const kvq_tokenizer *t);

/* Ends a generation: EOS, EOT, EOM and the well-known end tokens of the vocabulary, as llama.cpp's is_eog. */
bool kvq_tokenizer_is_end(const kvq_tokenizer *t, int id);
bool kvq_tokenizer_is_control(const kvq_tokenizer *t, int id);

/* Whether text behind this token goes on with it; behind the others (control, unknown, user-defined) it begins anew. */
bool kvq_tokenizer_is_text(const kvq_tokenizer *t, int id);

/* The bytes a token stands for in running text: byte fallback undone, SentencePiece's U+2581 a space. Control tokens
 * give their text when special is true, else nothing. Borrowed until kvq_tokenizer_free; an id outside the vocabulary
 * is empty. */
kvq_text kvq_tokenizer_piece(const kvq_tokenizer *t, int id, bool special);

/* The token's text as the vocabulary has it, e.g. "<|im_end|>", for templates (bos_token, eos_token). */
kvq_text kvq_tokenizer_text(const kvq_tokenizer *t, int id);

/* Incremental detokenization that never cuts a character. Bytes of an unfinished UTF-8 character are kept back;
 * bytes that can never become one come out as U+FFFD. SentencePiece's leading space of the very first piece is dropped
 * when the tokenizer adds one. Init with zeros, or as started where the first piece is the rest of a text. */
typedef struct kvq_detokenizer {
    unsigned char kept[4];
    int n_kept;
    bool started;
} kvq_detokenizer;

/* Room that the text of one piece of n bytes may take: every byte, and those kept before, may become U+FFFD. */
#define KVQ_DETOKENIZED_BYTES(n) (3 * ((n) + 4))

/* Writes the text that became complete to out (capacity: at least KVQ_DETOKENIZED_BYTES(bytes of the piece)) and
 * returns its length. At the end what is left is flushed; nothing follows. */
size_t kvq_detokenize(const kvq_tokenizer *t, kvq_detokenizer *d, int id, bool special, char *out, size_t capacity);
size_t kvq_detokenize_end(kvq_detokenizer *d, char *out, size_t capacity);

#endif
