/* progress.h: a progress bar on stderr, on a terminal only, for what takes longer than a second. */
#ifndef KVQ_PROGRESS_H
#define KVQ_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct progress {
    FILE *out;         /* NULL: never drawn */
    const char *label; /* borrowed */
    int64_t begin_ns, drawn_ns;
    bool drawn;
} progress;

/* `terminal`: whether out is one; `now_ns`: monotonic. */
void progress_init(progress *p, FILE *out, bool terminal, const char *label, int64_t now_ns);
void progress_show(progress *p, double ratio, int64_t now_ns);
/* Takes the bar away. */
void progress_done(progress *p);

int64_t progress_now_ns(void); /* the monotonic clock */

/* On stderr, now. */
void progress_begin(progress *p, const char *label);
void progress_step(progress *p, double ratio);

#endif
