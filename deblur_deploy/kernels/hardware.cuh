// What deform_conv.cu needs of the hardware, as inline PTX, so that it compiles without the toolkit's headers.
// The tests define the same few types and functions for an ordinary processor and run the kernel there.

#pragma once

#define SHARED_MEMORY(name, bytes) __shared__ __align__(32) unsigned char name[bytes]

typedef unsigned short Half;  // bits of an IEEE half; pairs travel in an unsigned int, the first in the low bits

struct FragmentA {
    unsigned words[8];
};
struct FragmentB {
    unsigned words[8];
};
struct FragmentC {
    float values[8];
};

static __device__ __forceinline__ float half_to_float(Half value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value));
    return result;
}

static __device__ __forceinline__ Half float_to_half(float value) {
    Half result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result) : "f"(value));
    return result;
}

static __device__ __forceinline__ unsigned half2_multiply(unsigned a, unsigned b) {
    unsigned result;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}

static __device__ __forceinline__ unsigned half2_multiply_add(unsigned a, unsigned b, unsigned c) {
    unsigned result;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}

static __device__ __forceinline__ unsigned shared_address(const void* pointer) {
    unsigned long long address;
    asm("cvta.to.shared.u64 %0, %1;" : "=l"(address) : "l"(pointer));
    return (unsigned)address;
}

// The four warp-wide operations on 16x16 tiles: row-major operands in shared memory, strides in elements.
#define WORDS(f) "=r"(f[0]), "=r"(f[1]), "=r"(f[2]), "=r"(f[3]), "=r"(f[4]), "=r"(f[5]), "=r"(f[6]), "=r"(f[7])
#define READ(f) "r"(f[0]), "r"(f[1]), "r"(f[2]), "r"(f[3]), "r"(f[4]), "r"(f[5]), "r"(f[6]), "r"(f[7])
#define READ_FLOATS(f) "f"(f[0]), "f"(f[1]), "f"(f[2]), "f"(f[3]), "f"(f[4]), "f"(f[5]), "f"(f[6]), "f"(f[7])
#define CHANGE(f) "+f"(f[0]), "+f"(f[1]), "+f"(f[2]), "+f"(f[3]), "+f"(f[4]), "+f"(f[5]), "+f"(f[6]), "+f"(f[7])

static __device__ __forceinline__ void load_a(FragmentA& fragment, const Half* tile, int stride) {
    asm volatile("wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {%0,%1,%2,%3,%4,%5,%6,%7}, [%8], %9;"
                 : WORDS(fragment.words)
                 : "r"(shared_address(tile)), "r"(stride)
                 : "memory");
}

static __device__ __forceinline__ void load_b(FragmentB& fragment, const Half* tile, int stride) {
    asm volatile("wmma.load.b.sync.aligned.row.m16n16k16.shared.f16 {%0,%1,%2,%3,%4,%5,%6,%7}, [%8], %9;"
                 : WORDS(fragment.words)
                 : "r"(shared_address(tile)), "r"(stride)
                 : "memory");
}

static __device__ __forceinline__ void multiply_add(FragmentC& sum, const FragmentA& a, const FragmentB& b) {
    asm volatile(
        "wmma.mma.sync.aligned.row.row.m16n16k16.f32.f32 {%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9,%10,%11,%12,%13,%14,%15}, "
        "{%16,%17,%18,%19,%20,%21,%22,%23}, {%0,%1,%2,%3,%4,%5,%6,%7};"
        : CHANGE(sum.values)
        : READ(a.words), READ(b.words));
}

static __device__ __forceinline__ void store_c(float* tile, const FragmentC& fragment, int stride) {
    asm volatile("wmma.store.d.sync.aligned.row.m16n16k16.shared.f32 [%8], {%0,%1,%2,%3,%4,%5,%6,%7}, %9;"
                 :
                 : READ_FLOATS(fragment.values), "r"(shared_address(tile)), "r"(stride)
                 : "memory");
}

static __device__ __forceinline__ void clear(FragmentC& fragment) {
    for (int i = 0; i < 8; ++i) fragment.values[i] = 0.0f;
}

#undef WORDS
#undef READ
#undef READ_FLOATS
#undef CHANGE
