/* tiny_model.h: writes small random-weight GGUF files, so that the engine's behaviour can be tested without a real
 * model and without Python. The vocabulary is the 256 bytes, one merge and three control tokens, so any text has ids
 * and any id is text. */
#ifndef KVQ_TINY_MODEL_H
#define KVQ_TINY_MODEL_H

#include <stdbool.h>

typedef struct tiny_model {
    const char *name, *arch;
    int n_layers, n_heads, window; /* window 0: none */
    int ffn;                       /* 0: TINY_FFN */
    bool qkv_bias, qk_norm, post_norms, rope_factors;
    bool coded;                       /* matrices in Q8_0, else F32 */
    float rope_linear, logit_softcap; /* 0: none */
} tiny_model;

enum {
    TINY_HIDDEN = 64,
    TINY_KV_HEADS = 2,
    TINY_HEAD_DIM = 32,
    TINY_FFN = 128,
    TINY_CONTEXT = 2048,
    TINY_BOS = 257,
    TINY_EOS = 258,
    TINY_VOCAB = 260
};

/* A row per row of engine/arch.c, and between them what differs in the engine: coded and float products, RoPE factors,
 * a bias in K, windows and groups. */
extern const tiny_model tiny_models[];
enum { TINY_LLAMA, TINY_QWEN2, TINY_GEMMA3, TINY_QWEN3, TINY_MODELS };

/* Writes the file; the path is borrowed from a static buffer per model. False when it cannot be written. */
bool tiny_model_write(const tiny_model *m, const char *path);

#endif
