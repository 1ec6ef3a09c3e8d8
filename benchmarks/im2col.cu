// The rival: deformable im2col as TensorRT's built-in plugin and mmcv do it, before a cuBLAS product.
//
// One thread makes the columns of one channel at one output pixel, and computes every position again for its channel.
// Stride 1, dilation 1, one offset group, an output of the input's size; columns are (channels * taps, pixels).

#ifdef __CUDACC__
#include "hardware.cuh"
#endif

static __device__ float widen(Half value) { return half_to_float(value); }
static __device__ float widen(float value) { return value; }
static __device__ void narrow(float value, Half* target) { *target = float_to_half(value); }
static __device__ void narrow(float value, float* target) { *target = value; }

template <typename T>
static __device__ float corner(const T* plane, int height, int width, int y, int x) {
    return y >= 0 && y < height && x >= 0 && x < width ? widen(plane[y * width + x]) : 0.0f;
}

template <typename T>
static __device__ void im2col(
    const T* x, const T* offset, T* columns, int channels, int height, int width, int kernel) {
    const int pixels = height * width, pad = kernel / 2, taps = kernel * kernel;
    const long long index = (long long)blockIdx.x * 256 + threadIdx.x;
    if (index >= (long long)channels * pixels) return;
    const int channel = (int)(index / pixels), pixel = (int)(index % pixels);
    const int row = pixel / width, column = pixel % width;
    const T* plane = x + (long long)channel * pixels;
    for (int tap = 0; tap < taps; ++tap) {
        const float y = row - pad + tap / kernel + widen(offset[2LL * tap * pixels + pixel]);
        const float u = column - pad + tap % kernel + widen(offset[(2LL * tap + 1) * pixels + pixel]);
        float value = 0.0f;
        if (y > -1.0f && u > -1.0f && y < height && u < width) {
            const int y0 = (int)floorf(y), x0 = (int)floorf(u);
            const float lower = y - y0, right = u - x0;
            value = (1.0f - lower) * (1.0f - right) * corner(plane, height, width, y0, x0) +
                (1.0f - lower) * right * corner(plane, height, width, y0, x0 + 1) +
                lower * (1.0f - right) * corner(plane, height, width, y0 + 1, x0) +
                lower * right * corner(plane, height, width, y0 + 1, x0 + 1);
        }
        narrow(value, columns + ((long long)channel * taps + tap) * pixels + pixel);
    }
}

extern "C" __global__ void im2col_f16(
    const Half* x, const Half* offset, Half* columns, int channels, int height, int width, int kernel) {
    im2col(x, offset, columns, channels, height, width, kernel);
}
extern "C" __global__ void im2col_f32(
    const float* x, const float* offset, float* columns, int channels, int height, int width, int kernel) {
    im2col(x, offset, columns, channels, height, width, kernel);
}
