/* memory_file.h: bytes as a file with a path, for targets whose entry point opens one. Used by fuzz_gguf.c and
 * fuzz_model.c. */
#ifndef KVQ_FUZZ_MEMORY_FILE_H
#define KVQ_FUZZ_MEMORY_FILE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct memory_file {
    int fd;
    char path[32];
} memory_file;

static inline void memory_file_open(memory_file *m, const uint8_t *data, size_t n_bytes) {
    m->fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (m->fd < 0) abort();
    for (size_t done = 0; done < n_bytes;) {
        ssize_t n = write(m->fd, data + done, n_bytes - done);
        if (n <= 0) abort();
        done += (size_t)n;
    }
    (void)snprintf(m->path, sizeof m->path, "/proc/self/fd/%d", m->fd);
}

static inline void memory_file_close(memory_file *m) {
    (void)close(m->fd);
}

#endif
