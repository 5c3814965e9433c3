/* fake_nvml.c: a false libnvidia-ml.so.1 with one GPU, for test_nvml.c and tests/daemon. With FAKE_NVML_OLD one that
 * lacks functions, as an old driver's. */
#include "fake_nvml.h"

#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6 };

fake_gpu fake_nvml_gpu = {
    .bus_id = "0000:65:00.0",
    .milliwatts = 250500,
    .celsius = 61,
    .sm_mhz = 1980,
    .memory_mhz = 2619,
    .busy_percent = 97,
    .memory_used = 20ull << 30,
    .memory_total = 80ull << 30,
    .energy_mj = 5000000,
    .reasons = 0x4,
};

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **ret);
int nvmlDeviceGetPowerUsage(void *device, unsigned *ret);
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *ret);
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *ret);
int nvmlDeviceGetClockInfo(void *device, int clock, unsigned *ret);
int nvmlDeviceGetUtilizationRates(void *device, unsigned ret[2]);
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long ret[3]);
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *ret);

int nvmlInit_v2(void) {
    if (fake_nvml_gpu.init_result == SUCCESS) fake_nvml_gpu.n_open++;
    return fake_nvml_gpu.init_result;
}

int nvmlShutdown(void) {
    fake_nvml_gpu.n_open--;
    return SUCCESS;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **ret) {
    if (strcmp(bus_id, fake_nvml_gpu.bus_id) != 0) return NOT_FOUND;
    *ret = &fake_nvml_gpu;
    return SUCCESS;
}

/* The device is the struct. */
static const fake_gpu *of(const void *device) {
    return device;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *ret) {
    *ret = of(device)->milliwatts;
    return of(device)->other_result;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *ret) {
    *ret = of(device)->celsius;
    return sensor == 0 ? of(device)->other_result : NOT_SUPPORTED;
}

int nvmlDeviceGetClockInfo(void *device, int clock, unsigned *ret) {
    *ret = clock == 2 ? of(device)->memory_mhz : of(device)->sm_mhz;
    return clock == 1 || clock == 2 ? of(device)->other_result : NOT_SUPPORTED;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned ret[2]) {
    ret[0] = of(device)->busy_percent;
    ret[1] = 11;
    return of(device)->other_result;
}

int nvmlDeviceGetMemoryInfo(void *device, unsigned long long ret[3]) {
    ret[0] = of(device)->memory_total;
    ret[1] = of(device)->memory_total - of(device)->memory_used;
    ret[2] = of(device)->memory_used;
    return of(device)->other_result;
}

#ifndef FAKE_NVML_OLD
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *ret) {
    *ret = of(device)->energy_mj;
    return of(device)->has_no_counter ? NOT_SUPPORTED : of(device)->other_result;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *ret) {
    *ret = of(device)->reasons;
    return of(device)->other_result;
}
#endif
