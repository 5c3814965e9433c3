/* rope_table.c: `rope_table`: cosines and sines of a step's positions, in double. Every CPU backend uses this one: it
 * runs once a step, and a float's angle at position 20,000 would be wrong in the third digit. */
#include <math.h>

#include "ref.h"

void kvq_ref_rope_table(kvq_stream *s, const kvq_rope_table *job) {
    (void)s; /* needs neither threads nor workspace */
    const kvq_rope *rope = job->rope;
    for (int i = 0; i < rope->n_rot / 2; i++) {
        double frequency = rope->scale * pow(rope->freq_base, -2.0 * i / rope->n_rot);
        if (rope->factors) frequency /= rope->factors[i];
        for (int r = 0; r < job->n_rows; r++) {
            float *pair = job->table + ((size_t)r * (rope->n_rot / 2) + i) * 2;
            pair[0] = (float)cos(job->pos[r] * frequency);
            pair[1] = (float)sin(job->pos[r] * frequency);
        }
    }
}
