/* Vectors of eight floats, as GCC and clang write them for any processor, and how to keep GCC from undoing the
 * order of operations that they are written in. */
#ifndef RECPARAM_VECTORS_H
#define RECPARAM_VECTORS_H
#include <stdint.h>

typedef float v8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));
typedef float v8u __attribute__((vector_size(32), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")
#define FOUR UNROLL for (int v = 0; v < 4; v++)
enum { MAX_THREADS = 64 };

/* HOLD keeps a vector in a register, where GCC would load it again for each product. HOLD4 makes it finish a step
 * for four vectors before the next step: one long chain after another would leave the units idle. */
#if defined(__GNUC__) && defined(__AVX__)
#define HOLD(x) __asm__("" : "+x"(x))
#define HOLD4(x) __asm__("" : "+x"((x)[0]), "+x"((x)[1]), "+x"((x)[2]), "+x"((x)[3]))
#else
#define HOLD(x) (void)0
#define HOLD4(x) (void)0
#endif

INLINE v8 load(const float *p) { return *(const v8u *)p; }
INLINE void store(float *p, v8 x) { *(v8u *)p = x; }
INLINE v8 splat(float x) { return (v8){x, x, x, x, x, x, x, x}; }
INLINE double total(v8 x) {
    return (((double)x[0] + x[1]) + ((double)x[2] + x[3])) + (((double)x[4] + x[5]) + ((double)x[6] + x[7]));
}

#endif
