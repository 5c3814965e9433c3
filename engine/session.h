/* session.h: conversations that go on: token ids by name, so that an answer is never tokenized again and the prefix
 * cache finds its blocks. Called by engine.c and request.c. */
#ifndef KVQ_SESSION_H
#define KVQ_SESSION_H

#include <stdbool.h>
#include <stddef.h>

#include "kvq.h"
#include "template.h"

typedef struct kvq_session {
    char *name;
    int *ids; /* everything said so far, answers included; NULL before the first answer */
    size_t n_ids;
    char (*roles)[KVQ_MAX_ROLE_BYTES + 1]; /* of the messages said so far, for the template */
    size_t n_roles;
    int n_requests;           /* of it that are queued or running; it stays while there are any */
    bool is_dropped;          /* forgotten meanwhile: nobody finds it any more, the last request frees it */
    struct kvq_session *next; /* newest use first */
} kvq_session;

typedef struct kvq_sessions {
    kvq_session *first;
    size_t n;
} kvq_sessions;

/* The session of that name, made if there is none, moved to the front, for one more request. NULL without memory or
 * when all n_max have requests. There may be n_max + 1 until kvq_sessions_trim: a request that is refused after all
 * costs nobody a session. */
kvq_session *kvq_sessions_open(kvq_sessions *s, const char *name, size_t n_max);

/* Forgets sessions that nobody is using, those used longest ago first, until there are n_max. */
void kvq_sessions_trim(kvq_sessions *s, size_t n_max);
bool kvq_sessions_drop(kvq_sessions *s, const char *name);
void kvq_sessions_done(kvq_sessions *s);

/* A request of the session ended: it now says ids (copied), with the roles of its new messages (without any: one user's
 * turn) and an answer. A system message counts only where the session begins with it. Without memory the session is
 * forgotten rather than left half. */
void kvq_session_extend(kvq_sessions *s, kvq_session *session, const int *ids, size_t n_ids,
                        const kvq_template_message *messages, size_t n_messages);

/* A request of the session ended without an answer. */
void kvq_session_release(kvq_sessions *s, kvq_session *session);

#endif
