/* isas.h: THE table of the CPU's instruction sets, in rising order. A row is a set: on which machines it is, its name,
 * and of which families of operators it has files (rows_NAME.c, linear_NAME.c, kv_NAME.c in cpu/); the others are those
 * of the set before it. cpu/features.c says which of them this CPU has, cpu/ops.c fills the operator table from them.
 */
#ifndef KVQ_ISAS_H
#define KVQ_ISAS_H

/* clang-format off */
/*    where  name     rows linear kv */
#define KVQ_ISA_MAP(ANY, X86, ARM64) \
      ANY   (ref,     0,   0,     0) /* plain C, double sums: the truth */ \
      ANY   (generic, 1,   1,     1) /* plain C */ \
      X86   (sse41,   1,   1,     1) \
      X86   (avx2,    1,   1,     1) /* with FMA and F16C */ \
      X86   (avxvnni, 1,   1,     1) \
      X86   (avx512,  1,   1,     1) /* with VNNI */ \
      X86   (amx,     0,   1,     0) /* avx512 and int8 tiles */ \
      ARM64 (neon,    1,   1,     1) \
      ARM64 (dotprod, 1,   1,     1) \
      ARM64 (i8mm,    1,   1,     1)
/* clang-format on */

/* A row as nothing, for sets of other machines; as its name in quotes after a comma. */
#define KVQ_ISA_NONE(name, rows, linear, kv)
#define KVQ_ISA_NAME(name, rows, linear, kv) , #name

#define KVQ_ISA_NAMES "auto" KVQ_ISA_MAP(KVQ_ISA_NAME, KVQ_ISA_NAME, KVQ_ISA_NAME)

/* Those of this machine's kind. */
#if defined(__x86_64__)
#define KVQ_ISA_MAP_HERE(X) KVQ_ISA_MAP(X, X, KVQ_ISA_NONE)
#elif defined(__aarch64__)
#define KVQ_ISA_MAP_HERE(X) KVQ_ISA_MAP(X, KVQ_ISA_NONE, X)
#else
#define KVQ_ISA_MAP_HERE(X) KVQ_ISA_MAP(X, KVQ_ISA_NONE, KVQ_ISA_NONE)
#endif

#endif
