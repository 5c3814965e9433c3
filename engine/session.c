/* session.c: the list of conversations. Called by engine.c (open, extend, release) and read by request.c. A linear
 * list: there are at most KVQ_MAX_SESSIONS. */
#include "session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void free_session(kvq_session *x) {
    if (!x) return;
    free(x->name);
    free(x->ids);
    free(x->roles);
    free(x);
}

static kvq_session **find(kvq_sessions *s, const char *name) {
    kvq_session **link = &s->first;
    while (*link && ((*link)->is_dropped || strcmp((*link)->name, name) != 0)) link = &(*link)->next;
    return link;
}

static void unlink_and_free(kvq_sessions *s, kvq_session *x) {
    kvq_session **link = &s->first;
    while (*link != x) link = &(*link)->next;
    *link = x->next;
    s->n--;
    free_session(x);
}

/* The one used longest ago that nobody is using, or NULL. */
static kvq_session *find_oldest(const kvq_sessions *s) {
    kvq_session *oldest = NULL;
    for (kvq_session *x = s->first; x; x = x->next)
        if (x->n_requests == 0) oldest = x;
    return oldest;
}

void kvq_sessions_trim(kvq_sessions *s, size_t n_max) {
    for (kvq_session *x; s->n > n_max && (x = find_oldest(s));) unlink_and_free(s, x);
}

kvq_session *kvq_sessions_open(kvq_sessions *s, const char *name, size_t n_max) {
    kvq_session **link = find(s, name), *x = *link;
    if (x)
        *link = x->next;
    else {
        if (s->n >= n_max && !find_oldest(s)) return NULL;
        x = calloc(1, sizeof *x);
        if (x) x->name = strdup(name);
        if (!x || !x->name) {
            free_session(x);
            return NULL;
        }
        s->n++;
    }
    x->next = s->first;
    s->first = x;
    x->n_requests++;
    return x;
}

bool kvq_sessions_drop(kvq_sessions *s, const char *name) {
    kvq_session *x = *find(s, name);
    if (!x) return false;
    if (x->n_requests > 0)
        x->is_dropped = true;
    else
        unlink_and_free(s, x);
    return true;
}

void kvq_sessions_done(kvq_sessions *s) {
    while (s->first) unlink_and_free(s, s->first);
}

void kvq_session_release(kvq_sessions *s, kvq_session *x) {
    x->n_requests--;
    if (x->n_requests == 0 && (x->is_dropped || !x->ids)) unlink_and_free(s, x);
}

static void add_role(kvq_session *x, const char *role) {
    snprintf(x->roles[x->n_roles++], sizeof x->roles[0], "%s", role); /* checked with the request: it fits */
}

static void add_roles(kvq_session *x, const kvq_template_message *messages, size_t n_messages) {
    for (size_t i = 0; i < n_messages; i++)
        if (i > 0 || !x->ids || strcmp(messages[i].role, "system") != 0) add_role(x, messages[i].role);
    if (n_messages == 0) add_role(x, "user");
    add_role(x, "assistant");
}

void kvq_session_extend(kvq_sessions *s, kvq_session *x, const int *ids, size_t n_ids,
                        const kvq_template_message *messages, size_t n_messages) {
    int *new_ids = malloc((n_ids ? n_ids : 1) * sizeof *new_ids);
    char(*new_roles)[KVQ_MAX_ROLE_BYTES + 1] = realloc(x->roles, (x->n_roles + n_messages + 2) * sizeof *new_roles);
    if (new_roles) x->roles = new_roles;
    if (!new_ids || !new_roles) {
        free(new_ids);
        x->is_dropped = true;
    } else {
        memcpy(new_ids, ids, n_ids * sizeof *ids);
        add_roles(x, messages, n_messages);
        free(x->ids);
        x->ids = new_ids;
        x->n_ids = n_ids;
    }
    kvq_session_release(s, x);
}
