/* conversation.c: one prompt to a running kvqd and its answer. See conversation.h.
 * Deltas are QoS 0 and may be lost; the final carries the whole text. What was printed is compared with it: the rest is
 * printed, and if a delta was lost in between, the whole text again. */
#include "conversation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "interrupt.h"

#define POLL_MS 200 /* how late Ctrl-C is seen */

typedef struct answer {
    char topic[CLIENT_NAME_BYTES + 16], delta_topic[CLIENT_NAME_BYTES + 16], cancel_topic[CLIENT_NAME_BYTES + 16];
    json_int_t next_seq;
    size_t n_printed;
    bool gap, cancelled;
    json_t *final;
} answer;

static void print_text(const char *text, size_t n_bytes) {
    (void)fwrite(text, 1, n_bytes, stdout); /* a closed stdout is seen by the caller's last flush */
    (void)fflush(stdout);
}

static void take_delta(answer *a, const json_t *delta) {
    const json_t *text = json_object_get(delta, "text");
    if (a->gap || json_integer_value(json_object_get(delta, "seq")) != a->next_seq) {
        a->gap = true;
        return;
    }
    a->next_seq++;
    a->n_printed += json_string_length(text);
    print_text(json_string_value(text) ? json_string_value(text) : "", json_string_length(text));
}

/* Parts of a final that was too large for the broker are joined as they come. */
static void take_final(answer *a, json_t *message) {
    const char *text = json_string_value(json_object_get(message, "text"));
    json_int_t part = json_integer_value(json_object_get(message, "part"));
    json_int_t parts = json_integer_value(json_object_get(message, "parts"));
    if (part > 1) {
        const char *before = a->final ? json_string_value(json_object_get(a->final, "text")) : "";
        char *joined = NULL;
        if (asprintf(&joined, "%s%s", before ? before : "", text ? text : "") >= 0)
            (void)json_object_set_new(message, "text",
                                      json_string(joined)); /* no memory: the text is short of a part */
        free(joined);
    }
    json_decref(a->final);
    a->final = json_incref(message);
    if (part < parts) return;
    text = json_string_value(json_object_get(message, "text"));
    if (!text) return;
    if (a->gap) fputs("\n[a part was lost on the way; the whole answer:]\n", stdout);
    size_t skip = a->gap ? 0 : a->n_printed;
    if (strlen(text) > skip) print_text(text + skip, strlen(text) - skip);
}

static bool is_complete(const answer *a) {
    if (!a->final) return false;
    return json_integer_value(json_object_get(a->final, "part")) ==
           json_integer_value(json_object_get(a->final, "parts"));
}

static void take_message(answer *a, const client_message *m) {
    json_t *o = json_loads(m->payload, 0, NULL);
    if (o && strcmp(m->topic, a->delta_topic) == 0) take_delta(a, o);
    if (o && strcmp(m->topic, a->topic) == 0) take_final(a, o);
    json_decref(o);
}

static kvq_status listen_for(client *c, answer *a, const char *name, kvq_error *err) {
    snprintf(a->topic, sizeof a->topic, "response/%s", name);
    snprintf(a->delta_topic, sizeof a->delta_topic, "response/%s/delta", name);
    snprintf(a->cancel_topic, sizeof a->cancel_topic, "cancel/%s", name);
    kvq_status status = client_subscribe(c, a->topic, err);
    return status ? status : client_subscribe(c, a->delta_topic, err);
}

static kvq_status send_prompt(client *c, json_t *prompt, const char *name, kvq_error *err) {
    char topic[CLIENT_NAME_BYTES + 16];
    snprintf(topic, sizeof topic, "prompt/%s", name);
    char *text = json_dumps(prompt, JSON_COMPACT);
    if (!text) return kvq_fail(err, KVQ_BAD_ARGUMENT, "The prompt is not UTF-8 text.");
    kvq_status status = client_publish(c, topic, text, err);
    free(text);
    return status;
}

/* How long since any message of the answer: the model may be loading or the queue long, so only silence counts. */
static kvq_status wait_for_final(client *c, answer *a, int timeout_s, kvq_error *err) {
    time_t last = time(NULL);
    while (!is_complete(a)) {
        client_message m;
        kvq_status status = client_receive(c, POLL_MS, &m, err);
        if (status) return status;
        if (m.topic) {
            take_message(a, &m);
            client_message_done(&m);
            last = time(NULL);
        } else if (time(NULL) - last > timeout_s) {
            return kvq_fail(err, KVQ_DEADLINE, "No answer for %d s; is '%s' busy? See 'kvqctl status'.", timeout_s,
                            client_node(c));
        }
        if (interrupt_seen() && !a->cancelled) {
            a->cancelled = true;
            status = client_publish(c, a->cancel_topic, "", err);
            if (status) return status;
        }
    }
    return KVQ_OK;
}

static kvq_status refusal(const json_t *final, kvq_error *err) {
    const json_t *error = json_object_get(final, "error");
    if (!json_is_object(error)) return KVQ_OK;
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *message = json_string_value(json_object_get(error, "message"));
    kvq_status status = code && strcmp(code, "cancelled") == 0 ? KVQ_CANCELLED : KVQ_BUSY;
    return kvq_fail(err, status, "%s: %s", code ? code : "refused", message ? message : "no reason given");
}

kvq_status conversation_ask(client *c, json_t *prompt, int timeout_s, json_t **ret_final, kvq_error *err) {
    char name[CLIENT_NAME_BYTES];
    answer a = {0};
    client_make_name(c, name);
    kvq_status status = listen_for(c, &a, name, err);
    if (!status) status = send_prompt(c, prompt, name, err);
    json_decref(prompt);
    if (!status) status = wait_for_final(c, &a, timeout_s, err);
    if (!status) status = refusal(a.final, err);
    if (status)
        json_decref(a.final);
    else
        *ret_final = a.final;
    return status;
}

static double number(const json_t *final, const char *group, const char *key) {
    return json_number_value(json_object_get(json_object_get(final, group), key));
}

void conversation_print_figures(const json_t *final) {
    fprintf(stderr, "%.0f tokens read (%.0f from the cache), first token after %.0f ms, %.0f tokens at %.1f tokens/s\n",
            number(final, "usage", "prompt_tokens"), number(final, "usage", "cached_tokens"),
            number(final, "timings", "ttft_ms"), number(final, "usage", "completion_tokens"),
            number(final, "timings", "tokens_per_second"));
}
