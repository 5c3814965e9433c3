/* file.c: reads a small file whole. A fifo, a device or a file that grows without end must not stop the daemon. */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static kvq_status read_all(int fd, const char *path, size_t n_bytes, char *text, kvq_error *err) {
    size_t n = 0;
    while (n < n_bytes) {
        ssize_t step = read(fd, text + n, n_bytes - n);
        if (step < 0 && errno == EINTR) continue;
        if (step < 0) return kvq_fail(err, KVQ_IO, "cannot read '%s': %s", path, strerror(errno));
        if (step == 0) break; /* it became shorter meanwhile */
        n += (size_t)step;
    }
    text[n] = '\0';
    if (strlen(text) != n) return kvq_fail(err, KVQ_BAD_FILE, "cannot read '%s': there is a zero byte in it", path);
    return KVQ_OK;
}

static kvq_status read_descriptor(int fd, const char *path, size_t max_bytes, char **ret, kvq_error *err) {
    struct stat st;
    if (fstat(fd, &st)) return kvq_fail(err, KVQ_IO, "cannot read '%s': %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode)) return kvq_fail(err, KVQ_IO, "cannot read '%s': not a regular file", path);
    if (st.st_size < 0 || (uint64_t)st.st_size > max_bytes)
        return kvq_fail(err, KVQ_IO, "cannot read '%s': larger than %zu bytes", path, max_bytes);
    char *text = malloc((size_t)st.st_size + 1);
    if (!text) return kvq_fail(err, KVQ_NO_MEMORY, "no memory to read '%s'", path);
    kvq_status status = read_all(fd, path, (size_t)st.st_size, text, err);
    if (status)
        free(text);
    else
        *ret = text;
    return status;
}

kvq_status file_read(const char *path, size_t max_bytes, char **ret, kvq_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* opening a fifo would wait for its writer */
    if (fd < 0) return kvq_fail(err, KVQ_IO, "cannot read '%s': %s", path, strerror(errno));
    kvq_status status = read_descriptor(fd, path, max_bytes, ret, err);
    (void)close(fd);
    return status;
}
