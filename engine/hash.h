/* hash.h: hashes whose collisions nobody can prepare, and numbers that nobody can guess. Called by the vocabulary
 * (vocab.c, bpe.c), the prefix cache, chat templates and requests: a model file, a prompt or a template may come from
 * anywhere, and a table whose hash they know they can make as slow as a list. */
#ifndef KVQ_HASH_H
#define KVQ_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* 64 bits from the kernel (getrandom(2)); from the clock where it has none to give. */
uint64_t kvq_random(void);

/* The 128-bit product of two words, its halves xored: the idea of wyhash. */
static inline uint64_t kvq_hash_mix(uint64_t h, uint64_t word) {
    __extension__ typedef unsigned __int128 u128;
    u128 product = (u128)(h ^ word) * 0xD6E8FEB86659FD93u;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Of n_bytes bytes, eight a round. seed: of the table, from kvq_random. */
static inline uint64_t kvq_hash(uint64_t seed, const void *bytes, size_t n_bytes) {
    const char *at = bytes;
    uint64_t h = seed ^ n_bytes;
    for (; n_bytes >= sizeof h; n_bytes -= sizeof h, at += sizeof h) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        h = kvq_hash_mix(h, word);
    }
    uint64_t last = 0;
    memcpy(&last, at, n_bytes);
    return kvq_hash_mix(h, last);
}

#endif
