/* nvml.c: the only file that knows NVML. Called by telemetry.c.
 *
 * The library is opened by name, and each function is looked for in it: a driver without one of them, or a GPU that
 * does not answer to it, is a figure less. Its header is not needed: the functions' forms are below, from NVIDIA's NVML
 * API reference guide; they have not changed since the first versions. */
#include "nvml.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NVML_SUCCESS = 0, NVML_TEMPERATURE_GPU = 0, NVML_CLOCK_SM = 1, NVML_CLOCK_MEM = 2 };

typedef struct nvml_memory {
    unsigned long long total, free, used; /* bytes */
} nvml_memory;
typedef struct nvml_utilization {
    unsigned gpu, memory; /* percent of the last period */
} nvml_utilization;
typedef void *nvml_device;

/* clang-format off */
/*    member        NVML's name                                  arguments */
#define NVML_FUNCTIONS(X)                                                                               \
    X(init,         "nvmlInit_v2",                               (void))                                \
    X(shutdown,     "nvmlShutdown",                              (void))                                \
    X(find,         "nvmlDeviceGetHandleByPciBusId_v2",          (const char *, nvml_device *))         \
    X(power,        "nvmlDeviceGetPowerUsage",                   (nvml_device, unsigned *))             \
    X(energy,       "nvmlDeviceGetTotalEnergyConsumption",       (nvml_device, unsigned long long *))   \
    X(temperature,  "nvmlDeviceGetTemperature",                  (nvml_device, int, unsigned *))        \
    X(clock,        "nvmlDeviceGetClockInfo",                    (nvml_device, int, unsigned *))        \
    X(utilization,  "nvmlDeviceGetUtilizationRates",             (nvml_device, nvml_utilization *))     \
    X(memory,       "nvmlDeviceGetMemoryInfo",                   (nvml_device, nvml_memory *))          \
    X(reasons,      "nvmlDeviceGetCurrentClocksThrottleReasons", (nvml_device, unsigned long long *))
/* clang-format on */

struct nvml {
    void *library;
    bool is_initialized;
    nvml_device device;
#define NVML_MEMBER(member, name, arguments) int(*member) arguments;
    NVML_FUNCTIONS(NVML_MEMBER)
#undef NVML_MEMBER
    bool has_counter;
    unsigned long long counter_mj;
    double joules, last_s, last_w; /* last_s NAN: not read yet */
};

/* Bits of the throttle reasons. A clock held down by heat, a power brake or a failing supply is news; one held at the
 * power limit is how a GPU under full load looks, and an idle one's, or one that somebody set, is no reason at all. */
static const struct {
    unsigned long long bit;
    const char *name;
    bool is_news;
} reasons[] = {
    {0x04, "power_cap", false}, {0x08, "hw_slowdown", true},    {0x20, "sw_thermal", true},
    {0x40, "hw_thermal", true}, {0x80, "hw_power_brake", true},
};

/* Where the library lacks a function, its member stays NULL. */
static void look_up(nvml *n){
#define NVML_LOOK_UP(member, name, arguments)                                                                  \
    {                                                                                                          \
        void *found = dlsym(n->library, name);                                                                 \
        if (found) memcpy(&n->member, &found, sizeof found); /* POSIX promises it, ISO C has no cast for it */ \
    }
    NVML_FUNCTIONS(NVML_LOOK_UP)
#undef NVML_LOOK_UP
}

/* True when there is the function and it gave an answer. */
#define ASK(n, member, ...) ((n)->member && (n)->member(__VA_ARGS__) == NVML_SUCCESS)

nvml *nvml_open(const char *library, const char *bus_id) {
    nvml *n = calloc(1, sizeof *n);
    if (!n) return NULL;
    n->last_s = NAN;
    n->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!n->library) goto fail;
    look_up(n);
    n->is_initialized = n->init && n->init() == NVML_SUCCESS;
    if (!n->is_initialized || !ASK(n, find, bus_id, &n->device)) goto fail;
    n->has_counter = ASK(n, energy, n->device, &n->counter_mj);
    return n;
fail:
    nvml_close(n);
    return NULL;
}

void nvml_close(nvml *n) {
    if (!n) return;
    if (n->is_initialized && n->shutdown) (void)n->shutdown(); /* nothing could be done about it */
    if (n->library) (void)dlclose(n->library);
    free(n);
}

static void read_clocks(const nvml *n, gpu_sample *ret) {
    unsigned mhz;
    if (ASK(n, clock, n->device, NVML_CLOCK_SM, &mhz)) ret->clock_hz = mhz * 1e6;
    if (ASK(n, clock, n->device, NVML_CLOCK_MEM, &mhz)) ret->memory_clock_hz = mhz * 1e6;
}

static void read_reasons(const nvml *n, gpu_sample *ret) {
    unsigned long long bits;
    size_t used = 0;
    if (!ASK(n, reasons, n->device, &bits)) return;
    ret->throttled = 0;
    ret->throttle_text[0] = '\0';
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        if (!(bits & reasons[i].bit)) continue;
        if (reasons[i].is_news) ret->throttled = 1;
        used += (size_t)snprintf(ret->throttle_text + used, sizeof ret->throttle_text - used, "%s%s", used ? "," : "",
                                 reasons[i].name); /* all of them together fit */
    }
}

void nvml_read(nvml *n, gpu_sample *ret) {
    unsigned value;
    nvml_utilization utilization;
    nvml_memory memory;
    if (ASK(n, power, n->device, &value)) ret->power_w = value * 1e-3;
    if (ASK(n, temperature, n->device, NVML_TEMPERATURE_GPU, &value)) ret->temperature_c = value;
    if (ASK(n, utilization, n->device, &utilization)) ret->utilization_ratio = utilization.gpu / 100.0;
    if (ASK(n, memory, n->device, &memory)) {
        ret->memory_used_bytes = (double)memory.used;
        ret->memory_total_bytes = (double)memory.total;
    }
    read_clocks(n, ret);
    read_reasons(n, ret);
}

double nvml_joules(nvml *n, double now_s) {
    unsigned long long counter_mj;
    unsigned milliwatts;
    if (n->has_counter) {
        if (ASK(n, energy, n->device, &counter_mj)) {
            if (counter_mj > n->counter_mj) n->joules += (double)(counter_mj - n->counter_mj) * 1e-3;
            n->counter_mj = counter_mj; /* it begins again when the driver is loaded again */
        }
        return n->joules;
    }
    if (ASK(n, power, n->device, &milliwatts)) {
        double w = milliwatts * 1e-3;
        if (!isnan(n->last_s)) n->joules += (now_s - n->last_s) * (w + n->last_w) / 2;
        n->last_s = now_s;
        n->last_w = w;
    }
    return isnan(n->last_s) ? NAN : n->joules;
}
