/* memory.c: free memory as the kernel tells it: /proc/meminfo's MemAvailable (proc(5)) and cgroup v2's memory.max and
 * memory.current (Documentation/admin-guide/cgroup-v2.rst). Page cache counts as free: mapped model files are clean. */
#include "memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A decimal number at the start of a small file; false for "max" or a file that is not there. */
static bool read_number(const char *path, uint64_t *ret) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    char line[64] = "";
    bool got = fgets(line, sizeof line, f) != NULL;
    (void)fclose(f); /* only read */
    if (!got || line[0] < '0' || line[0] > '9') return false;
    *ret = strtoull(line, NULL, 10);
    return true;
}

/* The value of `name` in memory.stat; 0 if absent. */
static uint64_t read_stat(const char *path, const char *name) {
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    char line[128];
    uint64_t value = 0;
    size_t n = strlen(name);
    while (fgets(line, sizeof line, f))
        if (strncmp(line, name, n) == 0 && line[n] == ' ') value = strtoull(line + n + 1, NULL, 10);
    (void)fclose(f);
    return value;
}

/* What this cgroup and its parents leave us; UINT64_MAX without limits. */
static uint64_t cgroup_left_bytes(void) {
    char path[4096] = "", group[3072] = "";
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f) return UINT64_MAX;
    while (fgets(path, sizeof path, f))
        if (strncmp(path, "0::", 3) == 0) snprintf(group, sizeof group, "%.3071s", path + 3);
    (void)fclose(f);
    group[strcspn(group, "\n")] = '\0';

    uint64_t left = UINT64_MAX;
    for (;;) {
        uint64_t max, current;
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", group);
        bool limited = read_number(path, &max);
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", group);
        if (limited && read_number(path, &current)) {
            snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.stat", group);
            uint64_t cache = read_stat(path, "inactive_file") + read_stat(path, "active_file");
            current -= cache < current ? cache : current; /* clean file pages give way */
            uint64_t here = max > current ? max - current : 0;
            if (here < left) left = here;
        }
        char *slash = strrchr(group, '/');
        if (!slash || group[0] == '\0') return left;
        *slash = '\0';
    }
}

kvq_status kvq_memory_free_bytes(uint64_t *ret, kvq_error *err) {
    FILE *f = fopen("/proc/meminfo", "re");
    if (!f) return kvq_fail(err, KVQ_IO, "cannot read /proc/meminfo, so the free memory is unknown");
    char line[128];
    uint64_t kib = 0;
    bool found = false;
    while (!found && fgets(line, sizeof line, f)) found = sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1;
    (void)fclose(f);
    if (!found) return kvq_fail(err, KVQ_IO, "/proc/meminfo has no MemAvailable, so the free memory is unknown");
    uint64_t free_bytes = kib * 1024, left = cgroup_left_bytes();
    *ret = left < free_bytes ? left : free_bytes;
    return KVQ_OK;
}
