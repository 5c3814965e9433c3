/* begin.c: `begin`: nothing to do where the host's memory is the device's. Every CPU backend uses this one. */
#include "ref.h"

void kvq_ref_begin(kvq_stream *s, const kvq_begin *job) {
    (void)s;
    (void)job;
}
