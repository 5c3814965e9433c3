/* memory.c: memory as the kernel tells of it: /proc/meminfo (proc(5)) and the control groups, version 2
 * (Documentation/admin-guide/cgroup-v2.rst) or 1 (cgroup-v1/memory.rst). Page cache counts as free: mapped model files
 * are clean. */
#include "memory.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 8192, GROUP_BYTES = 4096, LINE_BYTES = 256 };

/* The two versions' names of the same things. Version 1 counts what hangs below a group under names of their own. */
typedef struct group_files {
    const char *folder, *limit, *used, *caches[2];
} group_files;
static const group_files version_2 = {
    "/sys/fs/cgroup", "memory.max", "memory.current", {"inactive_file", "active_file"}};
static const group_files version_1 = {"/sys/fs/cgroup/memory",
                                      "memory.limit_in_bytes",
                                      "memory.usage_in_bytes",
                                      {"total_inactive_file", "total_active_file"}};

/* The number in the line that begins with name ("MemTotal:", "active_file"; "" for the first line of a file of one);
 * false where there is none, or "max". */
static bool read_number(const char *path, const char *name, uint64_t *ret) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    char line[LINE_BYTES];
    size_t n = strlen(name);
    bool found = false;
    while (!found && fgets(line, sizeof line, f)) {
        if (strncmp(line, name, n) != 0 || (n && !isspace((unsigned char)line[n]))) continue;
        const char *digits = line + n + strspn(line + n, " \t");
        found = isdigit((unsigned char)*digits);
        if (found) *ret = strtoull(digits, NULL, 10);
        if (n == 0) break;
    }
    (void)fclose(f); /* only read */
    return found;
}

/* Where our control group is: version 2 has one line "0::/path", version 1 one with the controller's name. Where a
 * machine has both, memory is where the controller is. NULL: there is none. */
static const group_files *find_group(const char *root, char group[GROUP_BYTES]) {
    char path[PATH_BYTES], line[GROUP_BYTES + 64];
    const group_files *found = NULL;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    if (!f) return NULL;
    while (found != &version_1 && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        const char *controllers = strchr(line, ':'), *where = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!where) continue;
        bool is_1 = strncmp(controllers, ":memory:", strlen(":memory:")) == 0, is_2 = where == controllers + 1;
        size_t n = strlen(++where);
        if ((!is_1 && !is_2) || n >= GROUP_BYTES) continue;
        found = is_1 ? &version_1 : &version_2;
        memcpy(group, where, n + 1);
    }
    (void)fclose(f); /* only read */
    return found;
}

static bool read_group_number(const char *root, const group_files *files, const char *group, const char *file,
                              const char *name, uint64_t *ret) {
    char path[PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s%s%s/%s", root, files->folder, group, file);
    return n < (int)sizeof path && read_number(path, name, ret);
}

/* What a group may still take under its limit: clean file pages that it holds give way. */
static uint64_t left_in_group(const char *root, const group_files *files, const char *group, uint64_t limit) {
    uint64_t used, cache;
    if (!read_group_number(root, files, group, files->used, "", &used)) return UINT64_MAX;
    for (int i = 0; i < 2; i++)
        if (read_group_number(root, files, group, "memory.stat", files->caches[i], &cache))
            used -= cache < used ? cache : used;
    return limit > used ? limit - used : 0;
}

/* From our group up to the root. A version 1 group without a limit says 2^63 less a page. */
static void read_groups(const char *root, kvq_memory *m) {
    char group[GROUP_BYTES];
    const group_files *files = find_group(root, group);
    if (!files) return;
    (void)read_group_number(root, files, group, files->used, "", &m->used_bytes); /* else unknown */
    for (;;) {
        uint64_t limit;
        if (read_group_number(root, files, group, files->limit, "", &limit) && limit > 0 && limit < UINT64_MAX / 4) {
            if (!m->limit_bytes || limit < m->limit_bytes) m->limit_bytes = limit;
            uint64_t left = left_in_group(root, files, group, limit);
            if (left < m->left_bytes) m->left_bytes = left;
        }
        char *slash = strrchr(group, '/');
        if (!slash) return;
        *slash = '\0';
    }
}

kvq_memory kvq_memory_read(const char *root) {
    kvq_memory m = {0};
    char path[PATH_BYTES];
    uint64_t kib;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (read_number(path, "MemTotal:", &kib)) m.total_bytes = kib * 1024;
    if (read_number(path, "MemAvailable:", &kib)) m.available_bytes = kib * 1024;
    m.left_bytes = m.available_bytes;
    read_groups(root, &m);
    return m;
}

kvq_status kvq_memory_free_bytes(uint64_t *ret, kvq_error *err) {
    kvq_memory m = kvq_memory_read("");
    if (!m.available_bytes)
        return kvq_fail(err, KVQ_IO, "/proc/meminfo tells no MemAvailable, so the free memory is unknown");
    *ret = m.left_bytes;
    return KVQ_OK;
}
