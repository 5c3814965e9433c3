/* features.c: CPUID and XGETBV on x86-64, the kernel's auxiliary vector on arm64; see features.h. */
#include "features.h"

bool kvq_cpu_has_ref(void) {
    return true;
}
bool kvq_cpu_has_generic(void) {
    return true;
}

#if defined(__x86_64__)

#include <cpuid.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct registers {
    uint32_t eax, ebx, ecx, edx;
} registers;

static registers leaf(uint32_t function, uint32_t subleaf) {
    registers r = {0};
    (void)__get_cpuid_count(function, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx); /* a leaf the CPU lacks stays zero */
    return r;
}

/* XCR0: which registers the operating system saves. Only to be read when CPUID says OSXSAVE. */
static uint64_t saved_registers(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool all_set(uint64_t value, uint64_t bits) {
    return (value & bits) == bits;
}

#define BIT(n) (1ull << (n))
#define XCR0_AVX (BIT(1) | BIT(2))                        /* xmm, upper half of ymm */
#define XCR0_AVX512 (XCR0_AVX | BIT(5) | BIT(6) | BIT(7)) /* masks, upper half of zmm0-15, zmm16-31 */
#define XCR0_AMX (BIT(17) | BIT(18))                      /* shapes, tiles */

/* Linux, Documentation/arch/x86/xstate.rst: a process asks once before it uses tiles; threads begun later inherit it.
 */
#ifndef ARCH_REQ_XCOMP_PERM
#define ARCH_REQ_XCOMP_PERM 0x1023
#endif
#define XFEATURE_XTILEDATA 18

/* Intel SDM volume 2A, CPUID: leaf 1 ecx; leaf 7 ebx and ecx, and of its subleaf 1 eax. */
#define LEAF1_SSSE3_SSE41 (BIT(9) | BIT(19))
#define LEAF1_AVX_FMA_F16C (BIT(28) | BIT(12) | BIT(29))
#define LEAF1_OSXSAVE BIT(27)
#define LEAF7_AVX2_BMI2 (BIT(5) | BIT(8))
#define LEAF7_AVX512_F_DQ_BW_VL (BIT(16) | BIT(17) | BIT(30) | BIT(31))
#define LEAF7_ECX_VNNI BIT(11)
#define LEAF7_1_EAX_AVX_VNNI BIT(4)
#define LEAF7_EDX_AMX_TILE_INT8 (BIT(24) | BIT(25))

bool kvq_cpu_has_sse41(void) {
    return all_set(leaf(1, 0).ecx, LEAF1_SSSE3_SSE41);
}

bool kvq_cpu_has_avx2(void) {
    uint32_t one = leaf(1, 0).ecx;
    if (!all_set(one, LEAF1_OSXSAVE) || !all_set(saved_registers(), XCR0_AVX)) return false;
    return all_set(one, LEAF1_AVX_FMA_F16C) && all_set(leaf(7, 0).ebx, LEAF7_AVX2_BMI2);
}

bool kvq_cpu_has_avxvnni(void) {
    return kvq_cpu_has_avx2() && leaf(7, 0).eax >= 1 && all_set(leaf(7, 1).eax, LEAF7_1_EAX_AVX_VNNI);
}

bool kvq_cpu_has_avx512(void) {
    if (!kvq_cpu_has_avx2() || !all_set(saved_registers(), XCR0_AVX512)) return false;
    registers seven = leaf(7, 0);
    return all_set(seven.ebx, LEAF7_AVX512_F_DQ_BW_VL) && all_set(seven.ecx, LEAF7_ECX_VNNI);
}

bool kvq_cpu_has_amx(void) {
    if (!kvq_cpu_has_avx512() || !all_set(saved_registers(), XCR0_AMX)) return false;
    if (!all_set(leaf(7, 0).edx, LEAF7_EDX_AMX_TILE_INT8)) return false;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

#elif defined(__aarch64__)

#include <sys/auxv.h>

/* Linux, Documentation/arm64/elf_hwcaps.rst. -march=armv8.2-a+dotprod lets a compiler use CRC32, LSE atomics and RDM
 * too, which every CPU with dot products has; a hypervisor may hide them. */
#define DOTPROD_CAPS (HWCAP_ASIMDDP | HWCAP_ASIMDRDM | HWCAP_ATOMICS | HWCAP_CRC32)

bool kvq_cpu_has_neon(void) { /* part of every arm64 CPU */
    return true;
}
bool kvq_cpu_has_dotprod(void) {
    return (getauxval(AT_HWCAP) & DOTPROD_CAPS) == DOTPROD_CAPS;
}
bool kvq_cpu_has_i8mm(void) {
    return kvq_cpu_has_dotprod() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM);
}

#endif
