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

/* Forgets the one used longest ago that nobody is using. */
static bool drop_oldest(kvq_sessions *s) {
    kvq_session *oldest = NULL;
    for (kvq_session *x = s->first; x; x = x->next)
        if (x->n_requests == 0) oldest = x;
    if (!oldest) return false;
    unlink_and_free(s, oldest);
    return true;
}

kvq_session *kvq_sessions_open(kvq_sessions *s, const char *name, size_t n_max) {
    kvq_session **link = find(s, name), *x = *link;
    if (x)
        *link = x->next;
    else {
        if (s->n >= n_max && !drop_oldest(s)) return NULL;
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

void kvq_session_extend(kvq_sessions *s, kvq_session *x, const int *ids, size_t n_ids, const char *const *roles,
                        size_t n_roles) {
    size_t n_all = x->n_roles + n_roles + 1;
    int *new_ids = malloc((n_ids ? n_ids : 1) * sizeof *new_ids);
    char(*new_roles)[16] = realloc(x->roles, n_all * sizeof *new_roles);
    if (new_roles) x->roles = new_roles;
    if (!new_ids || !new_roles) {
        free(new_ids);
        x->is_dropped = true;
    } else {
        memcpy(new_ids, ids, n_ids * sizeof *ids);
        free(x->ids);
        x->ids = new_ids;
        x->n_ids = n_ids;
        for (size_t i = 0; i < n_roles; i++) snprintf(x->roles[x->n_roles + i], sizeof x->roles[0], "%.15s", roles[i]);
        snprintf(x->roles[n_all - 1], sizeof x->roles[0], "assistant");
        x->n_roles = n_all;
    }
    kvq_session_release(s, x);
}
