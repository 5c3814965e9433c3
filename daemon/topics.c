/* topics.c: what walks the topic table. See topics.h and topics.def. */
#include "topics.h"

#include <stdio.h>
#include <string.h>

const topic_row topic_table[TOPIC_COUNT] = {
#define TOPIC(name, pattern, where, qos, retained, handler) \
    [TOPIC_##name] = {#name, pattern, TOPIC_##where, qos, retained},
#include "topics.def"
#undef TOPIC
};

static const char *placeholder(const topic_names *names, char letter) {
    switch (letter) {
    case 'b':
        return names->base;
    case 'd':
        return names->node;
    case 'p':
        return names->pool;
    case 'h':
        return names->home;
    default:
        return NULL; /* %r, %c: the rest */
    }
}

/* Writes the pattern with rest in place of %r and %c. False if a name that the pattern needs is not configured. */
static bool expand(const topic_names *names, const char *pattern, const char *rest, char ret[TOPIC_BYTES]) {
    size_t n = 0;
    bool complete = true;
    ret[0] = '\0';
    for (const char *at = pattern; *at && n < TOPIC_BYTES - 1; at++) {
        char letter[2] = {*at, '\0'};
        const char *piece = letter;
        if (*at == '%') {
            piece = placeholder(names, *++at);
            if (!piece)
                piece = rest ? rest : "";
            else if (!*piece)
                complete = false;
        }
        n += (size_t)snprintf(ret + n, TOPIC_BYTES - n, "%s", piece);
    }
    return complete;
}

void topic_make(const topic_names *names, topic_id id, const char *rest, char ret[TOPIC_BYTES]) {
    (void)expand(names, topic_table[id].pattern, rest, ret); /* callers ask for topics of configured names only */
}

bool topic_is_request_name(const char *text) {
    const char *slash = strchr(text, '/');
    if (!slash) return prompt_is_name(text, strlen(text));
    return prompt_is_name(text, (size_t)(slash - text)) && prompt_is_name(slash + 1, strlen(slash + 1));
}

/* Where the rest begins in topic, or NULL. Patterns end in %r or %c, or have neither. */
static const char *match_row(const topic_names *names, const topic_row *row, const char *topic) {
    char head[TOPIC_BYTES];
    if (row->where == TOPIC_OUT || !expand(names, row->pattern, "", head)) return NULL;
    size_t n = strlen(head);
    bool open = n > 0 && head[n - 1] == '/';
    if (strncmp(topic, head, n) != 0) return NULL;
    return open ? (topic[n] ? topic + n : NULL) : (topic[n] ? NULL : topic + n);
}

topic_id topic_match(const topic_names *names, const char *topic, char rest[TOPIC_REQUEST_BYTES], bool *ret_valid) {
    for (int i = 0; i < TOPIC_COUNT; i++) {
        const topic_row *row = &topic_table[i];
        const char *found = match_row(names, row, topic);
        if (!found) continue;
        const char *kind = strrchr(row->pattern, '%');
        bool request = kind && kind[1] == 'r', command = kind && kind[1] == 'c' && kind[2] == '\0';
        *ret_valid = request ? topic_is_request_name(found) : command ? prompt_is_name(found, strlen(found)) : true;
        snprintf(rest, TOPIC_REQUEST_BYTES, "%s", found);
        return (topic_id)i;
    }
    return TOPIC_COUNT;
}

/* What may follow the level "prompt": nothing, /ID or /CLIENT/ID. */
static bool is_rest_of_prompt(const char *text) {
    int n_levels = 0;
    for (const char *at = text; *at; at++) n_levels += *at == '/';
    return *text == '\0' || (*text == '/' && n_levels <= 2);
}

/* BASE/NODE/prompt and the request's name. A level "prompt" may be in each: the first is taken that leaves a base and a
 * node before it and a request's name behind it. So a base topic or node that ends in "prompt" may be taken for that
 * level, but no id or client: those are anybody's choice, base and node are one administrator's. */
bool topic_former_names(char *topic, topic_names *ret) {
    static const char level[] = "/prompt";
    for (char *at = topic; (at = strstr(at, level)); at++) {
        char *node = memrchr(topic, '/', (size_t)(at - topic));
        if (!node || !is_rest_of_prompt(at + strlen(level))) continue;
        *at = *node = '\0';
        *ret = (topic_names){.base = topic, .node = node + 1, .pool = "", .home = ""};
        return true;
    }
    return false;
}

static size_t add_filter(const topic_names *names, const topic_row *row, const char *rest, topic_filter *ret) {
    char text[TOPIC_BYTES];
    if (!expand(names, row->pattern, rest, text)) return 0;
    const char *share = row->where == TOPIC_POOL ? names->pool : "";
    snprintf(ret->text, sizeof ret->text, "%s%s%s%.*s", *share ? "$share/" : "", share, *share ? "/" : "",
             (int)(TOPIC_BYTES - 80), text);
    ret->qos = row->qos;
    return 1;
}

size_t topic_filters(const topic_names *names, topic_where where, topic_filter ret[TOPIC_MAX_FILTERS]) {
    size_t n = 0;
    for (int i = 0; i < TOPIC_COUNT && n + 2 <= TOPIC_MAX_FILTERS; i++) {
        const topic_row *row = &topic_table[i];
        if (row->where != where) continue;
        n += add_filter(names, row, "+", &ret[n]);
        if (strstr(row->pattern, "%r")) n += add_filter(names, row, "+/+", &ret[n]);
    }
    return n;
}
