// Vectors of 16 bytes, the arithmetic of interpolation in float16 and float32, and the products of tiles.

#pragma once

#ifdef __CUDACC__
#include "hardware.cuh"
#endif

constexpr int kThreads = 256;  // of a block

union Vector {
    uint4 words;
    unsigned word[4];
};

template <typename T>
struct Arithmetic;

template <>
struct Arithmetic<Half> {
    static __device__ __forceinline__ unsigned multiply(unsigned a, unsigned b) { return half2_multiply(a, b); }
    static __device__ __forceinline__ unsigned multiply_add(unsigned a, unsigned b, unsigned c) {
        return half2_multiply_add(a, b, c);
    }
    static __device__ __forceinline__ float widen(Half value) { return half_to_float(value); }
    static __device__ __forceinline__ Half narrow(float value) { return float_to_half(value); }
};

template <>
struct Arithmetic<float> {
    static __device__ __forceinline__ unsigned multiply(unsigned a, unsigned b) {
        return __float_as_uint(__uint_as_float(a) * __uint_as_float(b));
    }
    static __device__ __forceinline__ unsigned multiply_add(unsigned a, unsigned b, unsigned c) {
        return __float_as_uint(fmaf(__uint_as_float(a), __uint_as_float(b), __uint_as_float(c)));
    }
    static __device__ __forceinline__ float widen(float value) { return value; }
    static __device__ __forceinline__ float narrow(float value) { return value; }
};

static __device__ __forceinline__ void set_element(Vector& vector, int index, Half value) {
    vector.word[index >> 1] |= (unsigned)value << (16 * (index & 1));
}
static __device__ __forceinline__ void set_element(Vector& vector, int index, float value) {
    vector.word[index] = __float_as_uint(value);
}

// A vector from `count` elements that lie `stride` apart; the rest is zero. `aligned`: one 16-byte load is allowed.
template <typename T>
static __device__ __forceinline__ Vector load_vector(const T* source, int count, int stride, bool aligned) {
    constexpr int kVector = 16 / sizeof(T);
    Vector vector;
    if (aligned && count >= kVector) {
        vector.words = *(const uint4*)source;
        return vector;
    }
    vector.words = uint4{0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < kVector; ++i)
        if (i < count) set_element(vector, i, source[(long long)i * stride]);
    return vector;
}

// float16 on tensor cores: eight warps, each with 32 pixels by 32 output channels.
template <int kPixels, int kOutputs>
struct TensorCoreTile {
    using Type = Half;
    static constexpr int BM = kPixels, BN = kOutputs, BK = 32;
    static constexpr int kStrideA = BK + 8, kStrideB = BN + 8, kStrideC = 20;
    static constexpr int kScratchBytes = kThreads / 32 * 16 * kStrideC * (int)sizeof(float);
    static_assert(BM / 32 * (BN / 32) == kThreads / 32, "one 32x32 tile for each warp");

    FragmentC sums[2][2];

    __device__ __forceinline__ void start() {
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 2; ++j) clear(sums[i][j]);
    }

    __device__ __forceinline__ void accumulate(const Half* a, const Half* b) {
        const int warp = threadIdx.x / 32, row = warp / (BN / 32) * 32, column = warp % (BN / 32) * 32;
#pragma unroll
        for (int k = 0; k < BK; k += 16) {
            FragmentA left[2];
            FragmentB right[2];
            for (int i = 0; i < 2; ++i) load_a(left[i], a + (row + 16 * i) * kStrideA + k, kStrideA);
            for (int j = 0; j < 2; ++j) load_b(right[j], b + k * kStrideB + column + 16 * j, kStrideB);
            for (int i = 0; i < 2; ++i)
                for (int j = 0; j < 2; ++j) multiply_add(sums[i][j], left[i], right[j]);
        }
    }

    // Calls write(pixel, output, values) for runs along the pixels or along the channels; both relative to the tile.
    template <bool kChannelsLast, typename Write>
    __device__ __forceinline__ void finish(unsigned char* memory, Write write) {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const int row = warp / (BN / 32) * 32, column = warp % (BN / 32) * 32;
        float* scratch = (float*)memory + warp * 16 * kStrideC;
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                __syncwarp();
                store_c(scratch, sums[i][j], kStrideC);
                __syncwarp();
                float values[8];
                const int pixel = kChannelsLast ? lane / 2 : lane % 16, output = kChannelsLast ? lane % 2 * 8 : lane / 16;
                const int step = kChannelsLast ? 1 : 2;
                for (int v = 0; v < 8; ++v) values[v] = scratch[pixel * kStrideC + output + v * step];
                write(row + 16 * i + pixel, column + 16 * j + output, step, values);
            }
    }
};

// float32 on ordinary cores: each thread has 4 pixels by 4 output channels.
struct FloatTile {
    using Type = float;
    static constexpr int BM = 64, BN = 64, BK = 16;
    static constexpr int kStrideA = BK + 4, kStrideB = BN + 4;
    static constexpr int kScratchBytes = 0;

    float sums[4][4];

    __device__ __forceinline__ void start() {
        for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;
    }

    __device__ __forceinline__ int row() const { return threadIdx.x / 16 * 4; }
    __device__ __forceinline__ int column() const { return threadIdx.x % 16 * 4; }

    __device__ __forceinline__ void accumulate(const float* a, const float* b) {
#pragma unroll
        for (int k = 0; k < BK; k += 4) {
            float4 left[4], right[4];
            for (int i = 0; i < 4; ++i) left[i] = *(const float4*)(a + (row() + i) * kStrideA + k);
            for (int i = 0; i < 4; ++i) right[i] = *(const float4*)(b + (k + i) * kStrideB + column());
            for (int i = 0; i < 4; ++i) {
                add(sums[i], left[i].x, right[0]);
                add(sums[i], left[i].y, right[1]);
                add(sums[i], left[i].z, right[2]);
                add(sums[i], left[i].w, right[3]);
            }
        }
    }

    static __device__ __forceinline__ void add(float (&sum)[4], float factor, const float4& row) {
        sum[0] = fmaf(factor, row.x, sum[0]);
        sum[1] = fmaf(factor, row.y, sum[1]);
        sum[2] = fmaf(factor, row.z, sum[2]);
        sum[3] = fmaf(factor, row.w, sum[3]);
    }

    template <bool kChannelsLast, typename Write>
    __device__ __forceinline__ void finish(unsigned char*, Write write) {
        for (int i = 0; i < 4; ++i) write(row() + i, column(), 1, sums[i]);
    }
};
