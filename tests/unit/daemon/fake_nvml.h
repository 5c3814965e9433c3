/* fake_nvml.h: what the false libnvidia-ml.so.1 (fake_nvml.c) answers; a test sets it through the symbol fake_nvml_gpu.
 */
#ifndef FAKE_NVML_H
#define FAKE_NVML_H

typedef struct fake_gpu {
    int init_result, other_result; /* nvmlReturn_t of nvmlInit_v2 and of everything that is asked */
    const char *bus_id;
    unsigned milliwatts, celsius, sm_mhz, memory_mhz, busy_percent;
    unsigned long long memory_used, memory_total, energy_mj, reasons;
    int has_no_counter; /* nvmlDeviceGetTotalEnergyConsumption is not supported */
    int n_open;         /* inits less shutdowns */
} fake_gpu;

#endif
