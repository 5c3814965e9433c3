/* power.c: sensors of the machine. Called by telemetry.c and reply.c, one thread.
 *
 * Watts come from the first of these that can be read:
 *   rapl         /sys/class/powercap: counters of microjoules per package and its memory. Readable by root only on most
 * systems, see docs/systemd.md. psys is left out, since it covers the packages again; so are core and uncore, parts of
 * a package. ina3221      Jetson: volts and amperes of the rail that feeds the module, or of those that together do.
 * power_meter  ACPI: the whole machine. A counter gives energy; its difference gives power. A meter gives power; its
 * sum over time gives energy. */
#include "power.h"

#include <glob.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../engine/memory.h"

enum { MAX_SENSORS = 64, MAX_RAILS = 4, PATH_BYTES = 512 };

typedef struct sensor {
    char path[PATH_BYTES];
    uint64_t wrap, last; /* of a counter: where it begins again, and what it was */
} sensor;

typedef struct rail {
    char volts[PATH_BYTES], amperes[PATH_BYTES]; /* thousandths */
} rail;

typedef struct sensor_list {
    int n;
    sensor items[MAX_SENSORS];
} sensor_list;

struct power {
    char root[PATH_BYTES];
    const char *source;
    sensor_list energy; /* counters, uJ */
    int n_rails;
    bool has_total; /* the first rail feeds the others */
    rail rails[MAX_RAILS], gpu_rail;
    sensor watts;               /* a meter, uW; unused ones have an empty path */
    sensor gpu_load, gpu_clock; /* thousandths, Hz */
    sensor_list gpu_temperatures;
    sensor_list temperatures; /* thousandths of a degree */
    sensor_list throttle_counts, cooling_states;
    bool has_sample;
    int64_t last_ns;
    double last_w, energy_j;
    uint64_t last_throttle_events;
};

/* ---- small files
 * ------------------------------------------------------------------------------------------------------ */

/* The file's first bytes without the newline; false if it cannot be read. */
static bool read_text(const char *path, char *text, size_t n_bytes) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    size_t n = fread(text, 1, n_bytes - 1, f);
    bool ok = !ferror(f);
    (void)fclose(f);
    text[n] = '\0';
    if (n && text[n - 1] == '\n') text[n - 1] = '\0';
    return ok;
}

static bool read_number(const char *path, int64_t *ret) {
    char text[64], *end;
    if (!*path || !read_text(path, text, sizeof text)) return false;
    int64_t x = strtoll(text, &end, 10);
    if (end == text) return false;
    *ret = x;
    return true;
}

__attribute__((format(printf, 3, 4))) static bool make_path(char *path, const power *p, const char *format, ...) {
    va_list args;
    int head = snprintf(path, PATH_BYTES, "%s", p->root);
    va_start(args, format);
    int tail = vsnprintf(path + head, (size_t)(PATH_BYTES - head), format, args);
    va_end(args);
    return head + tail < PATH_BYTES;
}

/* Calls found for every path that matches pattern, below the root. */
static void find_paths(power *p, const char *pattern, void (*found)(power *p, const char *path)) {
    char path[PATH_BYTES];
    glob_t matches;
    if (!make_path(path, p, "%s", pattern) || glob(path, 0, NULL, &matches)) return;
    for (size_t i = 0; i < matches.gl_pathc; i++) found(p, matches.gl_pathv[i]);
    globfree(&matches);
}

static void add_sensor(sensor_list *list, const char *path, uint64_t wrap) {
    int64_t value;
    size_t n = strlen(path);
    if (list->n == MAX_SENSORS || n >= PATH_BYTES || !read_number(path, &value)) return;
    sensor *s = &list->items[list->n++];
    *s = (sensor){.wrap = wrap, .last = (uint64_t)value};
    memcpy(s->path, path, n + 1);
}

static bool is_one_of(const char *text, const char *const *names) {
    for (; *names; names++)
        if (!strcmp(*names, text)) return true;
    return false;
}

/* path with its last part replaced: "/a/name" and "temp" give "/a/temp". */
static bool sibling(char *ret, const char *path, const char *name) {
    const char *slash = strrchr(path, '/');
    return slash && snprintf(ret, PATH_BYTES, "%.*s/%s", (int)(slash - path), path, name) < PATH_BYTES;
}

/* ---- finding sensors
 * -------------------------------------------------------------------------------------------------- */

static void found_rapl_zone(power *p, const char *name_path) {
    char name[64], path[PATH_BYTES];
    int64_t wrap;
    if (!read_text(name_path, name, sizeof name)) return;
    if (strncmp(name, "package", 7) && strcmp(name, "dram")) return;
    if (!sibling(path, name_path, "max_energy_range_uj") || !read_number(path, &wrap) || wrap <= 0) return;
    if (sibling(path, name_path, "energy_uj")) add_sensor(&p->energy, path, (uint64_t)wrap);
}

/* The rails of Jetson modules (Jetson Linux developer guides, "Power and performance"): one feeds the module (VDD_IN:
 * Nano, NX; VIN: Thor), or three do (AGX Orin, whose VDDQ_VDD2_1V8AO comes out of VIN_SYS_5V0). The GPU's also feeds
 * what its name says. */
typedef enum rail_kind { RAIL_TOTAL = 1, RAIL_PART = 2, RAIL_GPU = 4 } rail_kind;
static const struct {
    const char *label;
    int kind;
} rail_labels[] = {
    {"VDD_IN", RAIL_TOTAL},    {"VIN", RAIL_TOTAL},        {"VDD_GPU_SOC", RAIL_PART | RAIL_GPU},
    {"VDD_CPU_CV", RAIL_PART}, {"VIN_SYS_5V0", RAIL_PART}, {"VDD_CPU_GPU_CV", RAIL_GPU},
    {"VDD_GPU", RAIL_GPU},
};

static int rail_kind_of(const char *label) {
    for (size_t i = 0; i < sizeof rail_labels / sizeof *rail_labels; i++)
        if (!strcmp(label, rail_labels[i].label)) return rail_labels[i].kind;
    return 0;
}

static double read_rail(const rail *r) {
    int64_t mv, ma;
    return read_number(r->volts, &mv) && read_number(r->amperes, &ma) ? (double)mv * (double)ma * 1e-6 : NAN;
}

/* The kernel puts in1_label .. in3_label beside in1_input and curr1_input. */
static void found_rail(power *p, const char *label_path) {
    char label[64], name[32];
    rail r;
    if (!read_text(label_path, label, sizeof label)) return;
    int kind = rail_kind_of(label);
    char digit = label_path[strlen(label_path) - strlen("1_label")];
    (void)snprintf(name, sizeof name, "in%c_input", digit);
    if (!kind || !sibling(r.volts, label_path, name)) return;
    (void)snprintf(name, sizeof name, "curr%c_input", digit);
    if (!sibling(r.amperes, label_path, name) || isnan(read_rail(&r))) return;
    if (kind & RAIL_GPU) p->gpu_rail = r;
    if (kind & RAIL_TOTAL && !p->has_total) {
        p->has_total = true;
        p->rails[0] = r;
        p->n_rails = 1;
    } else if (kind & RAIL_PART && !p->has_total && p->n_rails < MAX_RAILS)
        p->rails[p->n_rails++] = r;
}

static void found_power_meter(power *p, const char *name_path) {
    char name[64];
    int64_t value;
    if (*p->watts.path || !read_text(name_path, name, sizeof name) || strcmp(name, "power_meter")) return;
    if (!sibling(p->watts.path, name_path, "power1_average") || !read_number(p->watts.path, &value))
        *p->watts.path = '\0';
}

static void found_temperature_input(power *p, const char *path) {
    add_sensor(&p->temperatures, path, 0);
}

static void found_hwmon(power *p, const char *name_path) {
    static const char *const processors[] = {"coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal", NULL};
    char name[64], pattern[PATH_BYTES];
    if (!read_text(name_path, name, sizeof name) || !is_one_of(name, processors)) return;
    if (sibling(pattern, name_path, "temp*_input")) find_paths(p, pattern + strlen(p->root), found_temperature_input);
}

static void found_thermal_zone(power *p, const char *type_path) {
    static const char *const processors[] = {"x86_pkg_temp", "cpu-thermal", "cpu_thermal", "CPU-therm",
                                             "soc-thermal",  "tj-thermal",  NULL};
    char type[64], path[PATH_BYTES];
    if (!read_text(type_path, type, sizeof type) || !is_one_of(type, processors)) return;
    if (sibling(path, type_path, "temp")) add_sensor(&p->temperatures, path, 0);
}

static void found_gpu_zone(power *p, const char *type_path) {
    static const char *const gpus[] = {"gpu-thermal", "GPU-therm", NULL};
    char type[64], path[PATH_BYTES];
    if (!read_text(type_path, type, sizeof type) || !is_one_of(type, gpus)) return;
    if (sibling(path, type_path, "temp")) add_sensor(&p->gpu_temperatures, path, 0);
}

/* A frequency governor of a Jetson's GPU; its device tells the load. */
static void found_gpu_governor(power *p, const char *path) {
    int64_t value;
    if (*p->gpu_clock.path || strlen(path) >= PATH_BYTES || !read_number(path, &value)) return;
    (void)snprintf(p->gpu_clock.path, sizeof p->gpu_clock.path, "%s", path);
    if (!sibling(p->gpu_load.path, path, "device/load") || !read_number(p->gpu_load.path, &value))
        *p->gpu_load.path = '\0';
}

/* The governor is named after the device tree's node, which is the chip's name up to JetPack 5. */
static void find_gpu(power *p) {
    find_paths(p, "/sys/class/devfreq/*.gpu/cur_freq", found_gpu_governor);
    find_paths(p, "/sys/class/devfreq/*.ga10b/cur_freq", found_gpu_governor);
    find_paths(p, "/sys/class/devfreq/*.gv11b/cur_freq", found_gpu_governor);
    find_paths(p, "/sys/class/devfreq/gpu-gpc-0/cur_freq", found_gpu_governor);
    find_paths(p, "/sys/class/thermal/thermal_zone*/type", found_gpu_zone);
}

static void found_throttle_count(power *p, const char *path) {
    add_sensor(&p->throttle_counts, path, 0);
}

static void found_cooling_device(power *p, const char *type_path) {
    char type[64], path[PATH_BYTES];
    if (!read_text(type_path, type, sizeof type)) return;
    if (strcmp(type, "Processor") && !strstr(type, "cpufreq")) return;
    if (sibling(path, type_path, "cur_state")) add_sensor(&p->cooling_states, path, 0);
}

static void find_power(power *p) {
    find_paths(p, "/sys/class/powercap/intel-rapl:*/name", found_rapl_zone);
    find_paths(p, "/sys/class/hwmon/hwmon*/in[1-9]_label", found_rail);
    find_paths(p, "/sys/class/hwmon/hwmon*/name", found_power_meter);
    p->source = p->energy.n ? "rapl" : p->n_rails ? "ina3221" : *p->watts.path ? "power_meter" : NULL;
}

power *power_new(const char *root) {
    power *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    (void)snprintf(p->root, sizeof p->root, "%s", root);
    find_power(p);
    find_paths(p, "/sys/class/hwmon/hwmon*/name", found_hwmon);
    if (!p->temperatures.n) find_paths(p, "/sys/class/thermal/thermal_zone*/type", found_thermal_zone);
    find_gpu(p);
    find_paths(p, "/sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count", found_throttle_count);
    find_paths(p, "/sys/class/thermal/cooling_device*/type", found_cooling_device);
    return p;
}

void power_free(power *p) {
    free(p);
}

/* ---- reading
 * ---------------------------------------------------------------------------------------------------------- */

/* Joules since the counters were last read. */
static double read_counters(sensor_list *list) {
    double joules = 0;
    for (int i = 0; i < list->n; i++) {
        sensor *s = &list->items[i];
        int64_t value;
        if (!read_number(s->path, &value)) continue;
        uint64_t now = (uint64_t)value, passed = now >= s->last ? now - s->last : s->wrap - s->last + now;
        s->last = now;
        joules += (double)passed * 1e-6;
    }
    return joules;
}

static double read_meter(const power *p) {
    int64_t uw;
    double w = 0;
    for (int i = 0; i < p->n_rails; i++) w += read_rail(&p->rails[i]); /* one that fails makes it NAN */
    if (p->n_rails) return w;
    return read_number(p->watts.path, &uw) ? (double)uw * 1e-6 : NAN;
}

static void read_power(power *p, int64_t now_ns, power_sample *ret) {
    double passed_s = p->has_sample ? (double)(now_ns - p->last_ns) * 1e-9 : 0;
    ret->source = p->source;
    ret->power_w = ret->energy_j = NAN;
    if (!p->source) return;
    if (p->energy.n) {
        double joules = read_counters(&p->energy);
        p->energy_j += joules;
        if (passed_s > 0) ret->power_w = joules / passed_s;
    } else {
        double watts = read_meter(p);
        if (isnan(watts)) watts = p->last_w; /* a sensor that is busy for once */
        p->energy_j += passed_s * (watts + p->last_w) / 2;
        ret->power_w = p->last_w = watts;
    }
    ret->energy_j = p->energy_j;
}

static double read_hottest(const sensor_list *list) {
    double ret = NAN;
    for (int i = 0; i < list->n; i++) {
        int64_t value;
        if (read_number(list->items[i].path, &value))
            ret = fmax(ret, (double)value / 1000); /* fmax passes over a NAN */
    }
    return ret;
}

static void read_gpu(const power *p, gpu_sample *ret) {
    int64_t value;
    *ret = GPU_UNKNOWN;
    if (*p->gpu_rail.volts) ret->power_w = read_rail(&p->gpu_rail);
    ret->temperature_c = read_hottest(&p->gpu_temperatures);
    if (read_number(p->gpu_clock.path, &value)) ret->clock_hz = (double)value;
    if (read_number(p->gpu_load.path, &value)) ret->utilization_ratio = (double)value / 1000;
}

static void read_throttling(power *p, power_sample *ret) {
    int64_t value;
    ret->has_throttling = p->throttle_counts.n || p->cooling_states.n;
    for (int i = 0; i < p->throttle_counts.n; i++)
        if (read_number(p->throttle_counts.items[i].path, &value)) ret->throttle_events += (uint64_t)value;
    ret->is_throttled = p->has_sample && ret->throttle_events > p->last_throttle_events;
    for (int i = 0; i < p->cooling_states.n; i++)
        if (read_number(p->cooling_states.items[i].path, &value) && value > 0) ret->is_throttled = true;
    p->last_throttle_events = ret->throttle_events;
}

static void read_memory(const power *p, power_sample *ret) {
    char path[PATH_BYTES], text[128];
    const kvq_memory m = kvq_memory_read(p->root);
    ret->memory_total_bytes = m.total_bytes;
    ret->memory_available_bytes = m.available_bytes;
    ret->memory_limit_bytes = m.limit_bytes;
    ret->memory_used_bytes = m.used_bytes;
    uint64_t pages = 0;
    if (make_path(path, p, "/proc/self/statm") && read_text(path, text, sizeof text) &&
        sscanf(text, "%*u %" SCNu64, &pages) == 1)
        ret->resident_bytes = pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

void power_read(power *p, int64_t now_ns, power_sample *ret) {
    power_sample sample = {0};
    read_power(p, now_ns, &sample);
    sample.temperature_c = read_hottest(&p->temperatures);
    read_gpu(p, &sample.gpu);
    read_throttling(p, &sample);
    read_memory(p, &sample);
    p->has_sample = true;
    p->last_ns = now_ns;
    *ret = sample;
}
