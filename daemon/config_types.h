/* config_types.h: what a type of config.def can do. Rows are in config_types.c; config.c and config_print.c call them.
 */
#ifndef KVQD_CONFIG_TYPES_H
#define KVQD_CONFIG_TYPES_H

#include "config.h"

struct config_type {
    bool multi_line; /* indented lines continue the value; they are joined by newlines */
    /* Reads text into the zeroed member *value. False: not allowed, *value needs no release. */
    bool (*parse)(const config_key *key, const char *text, void *value);
    /* Writes what parse would read back to the same value. Two values are equal when this is. */
    void (*print)(const config_key *key, const void *value, FILE *out);
    /* Completes "allowed are ...", from the same columns that parse checks. */
    void (*allowed)(const config_key *key, FILE *out);
    json_t *(*to_json)(const config_key *key, const void *value);
    void (*release)(void *value); /* may be NULL */
};

#define CONFIG_TYPES(X) \
    X(STRING)           \
    X(TEXT)             \
    X(PATH)             \
    X(SECRET)           \
    X(NAME) X(POOL) X(URL) X(ID) X(TOPIC) X(INT) X(PICK) X(DURATION) X(NUMBER) X(BYTES) X(BOOL) X(SEED) X(LIST)
#define CONFIG_X(name) extern const config_type config_type_##name;
CONFIG_TYPES(CONFIG_X)
#undef CONFIG_X

#endif
