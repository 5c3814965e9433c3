/* progress.c: draws the bar. Called by the commands that load, measure or compare. */
#include "progress.h"

#include <time.h>
#include <unistd.h>

#define QUIET_NS 1000000000 /* nothing is drawn in the first second */
#define REDRAW_NS 100000000 /* at most ten times a second */
enum { BAR_CELLS = 30 };

int64_t progress_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void progress_init(progress *p, FILE *out, bool terminal, const char *label, int64_t now_ns) {
    *p = (progress){.out = terminal ? out : NULL, .label = label, .begin_ns = now_ns, .drawn_ns = now_ns - REDRAW_NS};
}

void progress_show(progress *p, double ratio, int64_t now_ns) {
    if (!p->out || now_ns - p->begin_ns < QUIET_NS || now_ns - p->drawn_ns < REDRAW_NS) return;
    if (!(ratio >= 0)) ratio = 0;
    if (ratio > 1) ratio = 1;
    int full = (int)(ratio * BAR_CELLS);
    fprintf(p->out, "\r%s [", p->label);
    for (int i = 0; i < BAR_CELLS; i++) fputc(i < full ? '#' : '.', p->out);
    fprintf(p->out, "] %3d %%\033[K", (int)(ratio * 100));
    fflush(p->out);
    p->drawn_ns = now_ns;
    p->drawn = true;
}

void progress_done(progress *p) {
    if (p->drawn) fputs("\r\033[K", p->out);
    if (p->drawn) fflush(p->out);
    p->drawn = false;
}

void progress_begin(progress *p, const char *label) {
    progress_init(p, stderr, isatty(STDERR_FILENO) == 1, label, progress_now_ns());
}

void progress_step(progress *p, double ratio) {
    progress_show(p, ratio, progress_now_ns());
}
