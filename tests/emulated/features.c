/* features.c: the CPU of check_kernels_emulated, in place of kernels/cpu/features.c: it has the instruction sets that
 * the program has emulated kernels for. */
#include "kernels/cpu/features.h"

bool kvq_cpu_has_ref(void) {
    return true;
}
bool kvq_cpu_has_generic(void) {
    return true;
}
bool kvq_cpu_has_sse41(void) {
    return false;
}
bool kvq_cpu_has_avx2(void) {
    return false;
}
bool kvq_cpu_has_avxvnni(void) {
    return true;
}
bool kvq_cpu_has_avx512(void) {
    return true;
}
bool kvq_cpu_has_amx(void) {
    return true;
}
