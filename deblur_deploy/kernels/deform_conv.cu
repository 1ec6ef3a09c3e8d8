// Deformable convolution (DCNv1) as one fused implicit GEMM.
//
//     y[n, o, p] = act(bias[o] + sum over taps t and channels c of w[o, c, t] * x[n, c](position(n, t, p)))
//
// with bilinear interpolation and zeros outside the image (Dai et al., "Deformable Convolutional Networks", ICCV 2017).
// A block makes a tile of BM output pixels by BN output channels. It walks the depth (taps, then channels) in steps of
// 64 bytes per pixel: while the tensor cores multiply one step, the corners of the next are on their way. Positions are
// float32, computed once per pixel, tap and offset group, two steps ahead; the fraction is taken from the offset alone,
// so that it does not lose bits to the coordinate of a far pixel. Nothing but the result is written to memory.
//
// Pointers are aligned to 16 bytes. Compiled with -DDEFORM_CONV_FLAT, the entry points take plain integers instead of a
// struct, in the order in which TensorRT passes the arguments of an ahead-of-time plugin: inputs, integers, output.
// With -DDEFORM_CONV_ENTRY=name,tile,channels_last there is that one only, which compiles several times faster.

#include "tiles.cuh"

// Sizes and steps of one convolution; mirrored by Geometry in geometry.py, field by field.
struct DeformConvGeometry {
    int batch, channels, height, width;
    int out_channels, out_height, out_width;
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    int groups, offset_groups;
    int x_pitch, y_pitch;  // elements from pixel to pixel, where channels come last
    int half_offset;       // offsets are float16, else float32
    int packed_weight;     // (groups, taps, channels / groups, out_channels / groups), else (out, in / groups, kh, kw)
    int relu;
};

template <typename T>
struct Operands {
    const T* x;
    const T* weight;
    const void* offset;  // (batch, 2 * taps * offset_groups, out_height, out_width)
    const T* bias;       // (out_channels) or null
    T* y;
};

// Where one output pixel reads for one tap: the weights of the corners (y0, x0), (y0, x1), (y1, x0), (y1, x1), and the
// pixel index of the first. A corner outside of the image must not be read: its weight is minus zero, which no other is.
// Two blocks fit the 64 KiB of shared memory of SM75 only with samples as small as this.
constexpr float kOutside = -0.0f;

template <typename T>
struct Sample;

template <>
struct Sample<Half> {
    unsigned pairs[2];
    int base;

    __device__ __forceinline__ void set(const float (&weights)[4]) {
        for (int i = 0; i < 2; ++i)
            pairs[i] = float_to_half(weights[2 * i]) | (unsigned)float_to_half(weights[2 * i + 1]) << 16;
    }
    __device__ __forceinline__ bool reads(int k) const { return !(pairs[k / 2] >> (k % 2 * 16 + 15) & 1); }
    __device__ __forceinline__ unsigned weight(int k) const {  // a half twice
        return (pairs[k / 2] >> k % 2 * 16 & 0xFFFFu) * 0x10001u;
    }
};

template <>
struct Sample<float> {
    unsigned weights[4];
    int base;

    __device__ __forceinline__ void set(const float (&values)[4]) {
        for (int k = 0; k < 4; ++k) weights[k] = __float_as_uint(values[k]);
    }
    __device__ __forceinline__ bool reads(int k) const { return !(weights[k] >> 31); }
    __device__ __forceinline__ unsigned weight(int k) const { return weights[k]; }
};

constexpr int kSlots = 4;  // vectors of 16 bytes that a depth step holds per pixel

// One step of the depth: at most kSlots vectors of channels of one tap, all of one offset group.
struct Step {
    int tap, channel, width, offset_group;
    int segment;  // counts changes of tap or offset group
};

// The walk over the depth: taps outside, so that a position serves all channels while it is at hand.
struct Depth {
    int begin, end;             // channels of the convolution's group
    int per_offset_group, taps;
    int longest;                // channels in a full step

    __device__ __forceinline__ void measure(Step& step) const {
        step.offset_group = step.channel / per_offset_group;
        const int segment_end = min((step.offset_group + 1) * per_offset_group, end);
        step.width = min(longest, segment_end - step.channel);
    }

    __device__ __forceinline__ Step first() const {
        Step step{0, begin, 0, 0, 0};
        measure(step);
        return step;
    }

    __device__ __forceinline__ bool covers(const Step& step) const { return step.tap < taps; }

    __device__ __forceinline__ Step after(const Step& step) const {
        Step next = step;
        next.channel += step.width;
        if (next.channel == end) {
            next.channel = begin;
            ++next.tap;
        }
        measure(next);
        next.segment += next.tap != step.tap || next.offset_group != step.offset_group;
        return next;
    }
};

// Where an output pixel reads for a step's tap, in float32 whatever the type of the operands.
template <typename T>
static __device__ __forceinline__ Sample<T> locate(
    const DeformConvGeometry& g, const void* offset, const Step& step, int image, int pixel) {
    float weights[4] = {kOutside, kOutside, kOutside, kOutside};
    Sample<T> sample;
    sample.set(weights);
    sample.base = 0;
    const int out_pixels = g.out_height * g.out_width, taps = g.kernel_h * g.kernel_w;
    if (pixel >= out_pixels) return sample;
    const long long channel = ((long long)image * g.offset_groups + step.offset_group) * taps + step.tap;
    const long long index = channel * 2 * out_pixels + pixel;
    float dy, dx;
    if (g.half_offset) {
        dy = half_to_float(((const Half*)offset)[index]);
        dx = half_to_float(((const Half*)offset)[index + out_pixels]);
    } else {
        dy = ((const float*)offset)[index];
        dx = ((const float*)offset)[index + out_pixels];
    }
    const float limit = 16777216.0f;  // beyond it a float has no fraction, and no image has such a side
    if (!(fabsf(dy) < limit && fabsf(dx) < limit)) return sample;  // also where an offset is not a number

    const float floor_y = floorf(dy), floor_x = floorf(dx);
    const int out_y = pixel / g.out_width, out_x = pixel - out_y * g.out_width;
    const int tap_y = step.tap / g.kernel_w, tap_x = step.tap - tap_y * g.kernel_w;
    const int y0 = out_y * g.stride_h - g.pad_h + tap_y * g.dilation_h + (int)floor_y;
    const int x0 = out_x * g.stride_w - g.pad_w + tap_x * g.dilation_w + (int)floor_x;
    const float lower = dy - floor_y, right = dx - floor_x, upper = 1.0f - lower, left = 1.0f - right;
    const bool row0 = y0 >= 0 && y0 < g.height, row1 = y0 >= -1 && y0 < g.height - 1;
    const bool column0 = x0 >= 0 && x0 < g.width, column1 = x0 >= -1 && x0 < g.width - 1;
    if (row0 && column0) weights[0] = upper * left;
    if (row0 && column1) weights[1] = upper * right;
    if (row1 && column0) weights[2] = lower * left;
    if (row1 && column1) weights[3] = lower * right;
    sample.set(weights);
    if ((row0 || row1) && (column0 || column1)) sample.base = y0 * g.width + x0;
    return sample;
}

template <typename Tile, bool kChannelsLast>
struct DeformConv {
    using T = typename Tile::Type;
    static constexpr int kVector = 16 / sizeof(T);
    static constexpr int kPasses = Tile::BM * kSlots / kThreads;                    // samples per thread and step
    static constexpr int kWeightPasses = Tile::BK * Tile::BN / kVector / kThreads;  // weight vectors likewise
    static constexpr int kBytesA = Tile::BM * Tile::kStrideA * sizeof(T), kBytesB = Tile::BK * Tile::kStrideB * sizeof(T);
    static constexpr int kStageBytes = kBytesA + kBytesB, kSampleBytes = Tile::BM * sizeof(Sample<T>);
    static constexpr int kTileBytes = 2 * kStageBytes > Tile::kScratchBytes ? 2 * kStageBytes : Tile::kScratchBytes;
    static constexpr int kSharedBytes = kTileBytes + 2 * kSampleBytes;
    static_assert(Tile::BK == kSlots * kVector, "a step is kSlots vectors deep");
    static_assert(2 * kSharedBytes <= 64 * 1024, "two blocks to a multiprocessor, on SM75 too");

    const DeformConvGeometry& g;
    const Operands<T>& operands;
    unsigned char* memory;
    Depth depth;
    int image, group, first_pixel, first_output, outputs;  // outputs of a group
    Vector corners[kPasses][4];
    Vector weights[kWeightPasses];

    __device__ __forceinline__ T* tile_a(int stage) { return (T*)(memory + stage * kStageBytes); }
    __device__ __forceinline__ T* tile_b(int stage) { return (T*)(memory + stage * kStageBytes + kBytesA); }
    __device__ __forceinline__ Sample<T>* samples(const Step& step) {
        return (Sample<T>*)(memory + kTileBytes + (step.segment & 1) * kSampleBytes);
    }

    // Which pixel of the tile and which vector of the step a thread samples. Neighbouring threads read neighbouring
    // addresses: along the channels where these come last, else along the pixels.
    static __device__ __forceinline__ int pixel_of(int pass) {
        const int index = threadIdx.x + pass * kThreads;
        return kChannelsLast ? index / kSlots : index % Tile::BM;
    }
    static __device__ __forceinline__ int slot_of(int pass) {
        const int index = threadIdx.x + pass * kThreads;
        return kChannelsLast ? index % kSlots : index / Tile::BM;
    }

    __device__ __forceinline__ void place(const Step& step) {
        if (threadIdx.x < Tile::BM)
            samples(step)[threadIdx.x] = locate<T>(g, operands.offset, step, image, first_pixel + threadIdx.x);
    }

    // Start the loads of a step: the corners of this thread's samples, and its share of the weights.
    __device__ __forceinline__ void fetch(const Step& step) {
        const int pixels = g.height * g.width;
        const T* x = operands.x + (long long)image * pixels * (kChannelsLast ? g.x_pitch : g.channels);
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            const Sample<T>& sample = samples(step)[pixel_of(pass)];
            const int channel = step.channel + slot_of(pass) * kVector;
            const int count = step.channel + step.width - channel;
            const bool aligned = kChannelsLast && g.x_pitch % kVector == 0 && channel % kVector == 0;
            const int reach[4] = {0, 1, g.width, g.width + 1};
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                corners[pass][k].words = uint4{0, 0, 0, 0};
                if (count > 0 && sample.reads(k)) {
                    const int pixel = sample.base + reach[k];
                    corners[pass][k] = kChannelsLast
                        ? load_vector(x + (long long)pixel * g.x_pitch + channel, count, 1, aligned)
                        : load_vector(x + (long long)channel * pixels + pixel, count, pixels, false);
                }
            }
        }
        fetch_weights(step);
    }

    __device__ __forceinline__ void fetch_weights(const Step& step) {
        const int channels = depth.end - depth.begin;
#pragma unroll
        for (int pass = 0; pass < kWeightPasses; ++pass) {
            const int index = threadIdx.x + pass * kThreads;
            const int row = index / (Tile::BN / kVector), output = first_output + index % (Tile::BN / kVector) * kVector;
            const int count = outputs - output;
            const int channel = step.channel - depth.begin + row;
            weights[pass].words = uint4{0, 0, 0, 0};
            if (row >= step.width || count <= 0) continue;
            if (g.packed_weight) {
                const long long at = (((long long)group * depth.taps + step.tap) * channels + channel) * outputs + output;
                weights[pass] = load_vector(operands.weight + at, count, 1, outputs % kVector == 0);
            } else {
                const long long at = (((long long)group * outputs + output) * channels + channel) * depth.taps + step.tap;
                weights[pass] = load_vector(operands.weight + at, count, channels * depth.taps, false);
            }
        }
    }

    // Interpolate what fetch() loaded and put it where the product reads it.
    __device__ __forceinline__ void commit(const Step& step, int stage) {
#pragma unroll
        for (int pass = 0; pass < kPasses; ++pass) {
            const Sample<T>& sample = samples(step)[pixel_of(pass)];
            Vector blend;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                blend.word[i] = Arithmetic<T>::multiply(sample.weight(0), corners[pass][0].word[i]);
                for (int k = 1; k < 4; ++k)
                    blend.word[i] =
                        Arithmetic<T>::multiply_add(sample.weight(k), corners[pass][k].word[i], blend.word[i]);
            }
            *(uint4*)(tile_a(stage) + pixel_of(pass) * Tile::kStrideA + slot_of(pass) * kVector) = blend.words;
        }
#pragma unroll
        for (int pass = 0; pass < kWeightPasses; ++pass) {
            const int index = threadIdx.x + pass * kThreads;
            const int row = index / (Tile::BN / kVector), column = index % (Tile::BN / kVector) * kVector;
            *(uint4*)(tile_b(stage) + row * Tile::kStrideB + column) = weights[pass].words;
        }
    }

    // Finish `kCount` sums of one pixel, for output channels `step` apart, and store those that exist. Where channels
    // come last, the thread that stores the last channel stores zeros behind it, up to the next pixel.
    template <int kCount>
    __device__ __forceinline__ void write(int pixel, int output, int step, const float (&sums)[kCount]) {
        const int out_pixels = g.out_height * g.out_width;
        pixel += first_pixel;
        output += first_output;
        if (pixel >= out_pixels || output >= outputs) return;
        const int channel = group * outputs + output;
        const long long at = kChannelsLast ? ((long long)image * out_pixels + pixel) * g.y_pitch + channel
                                           : ((long long)image * g.out_channels + channel) * out_pixels + pixel;
        const long long stride = kChannelsLast ? step : (long long)step * out_pixels;
        Vector vector;
        vector.words = uint4{0, 0, 0, 0};
        const bool ends = kChannelsLast && group == g.groups - 1 && output + kCount >= outputs;
        const int room = ends ? g.y_pitch - channel : outputs - output;  // elements that this thread may store
        const bool whole = kChannelsLast && kCount == kVector && kCount <= room && g.y_pitch % kVector == 0 &&
            channel % kVector == 0;
#pragma unroll
        for (int v = 0; v < kCount; ++v) {
            if (output + v * step >= outputs) break;
            float value = sums[v] + (operands.bias ? Arithmetic<T>::widen(operands.bias[channel + v * step]) : 0.0f);
            if (g.relu && value < 0.0f) value = 0.0f;
            const T result = Arithmetic<T>::narrow(value);
            if (whole)
                set_element(vector, v % kVector, result);
            else
                operands.y[at + v * stride] = result;
        }
        if (whole) *(uint4*)(operands.y + at) = vector.words;
        if (ends)
            for (int v = whole ? kCount : outputs - output; v < room; ++v) operands.y[at + v] = 0;
    }

    // Loads of step s + 1 are under way while step s is multiplied, and the positions of step s + 2 are computed.
    __device__ __forceinline__ void run() {
        Tile tile;
        tile.start();
        Step current = depth.first();
        place(current);
        Step next = depth.after(current);
        if (depth.covers(next) && next.segment != current.segment) place(next);
        __syncthreads();
        fetch(current);
        commit(current, 0);
        __syncthreads();
        for (int stage = 0; depth.covers(current); stage ^= 1) {
            const bool more = depth.covers(next);
            const Step later = more ? depth.after(next) : next;
            if (more) fetch(next);
            if (more && depth.covers(later) && later.segment != next.segment) place(later);
            tile.accumulate(tile_a(stage), tile_b(stage));
            if (more) commit(next, stage ^ 1);
            __syncthreads();
            current = next;
            next = later;
        }
        tile.template finish<kChannelsLast>(
            memory, [this](int pixel, int output, int step, const auto& sums) { write(pixel, output, step, sums); });
    }
};

// Grid: (tiles of pixels, tiles of a group's outputs times groups, images).
template <typename Tile, bool kChannelsLast>
static __device__ __forceinline__ void deform_conv(
    const DeformConvGeometry& g, const Operands<typename Tile::Type>& operands) {
    using Kernel = DeformConv<Tile, kChannelsLast>;
    SHARED_MEMORY(memory, Kernel::kSharedBytes);
    const int outputs = g.out_channels / g.groups, channels = g.channels / g.groups;
    const int output_tiles = (outputs + Tile::BN - 1) / Tile::BN, group = blockIdx.y / output_tiles;
    Kernel kernel{g, operands, memory};
    kernel.depth = Depth{
        group * channels, (group + 1) * channels, g.channels / g.offset_groups, g.kernel_h * g.kernel_w, Tile::BK};
    kernel.image = blockIdx.z;
    kernel.group = group;
    kernel.first_pixel = blockIdx.x * Tile::BM;
    kernel.first_output = blockIdx.y % output_tiles * Tile::BN;
    kernel.outputs = outputs;
    kernel.run();
}

#ifdef DEFORM_CONV_FLAT
#define ENTRY(name, Tile, kChannelsLast)                                                                              \
    extern "C" __global__ void __launch_bounds__(kThreads, 2) name(                                                   \
        const Tile::Type* x, const Tile::Type* weight, const void* offset, int batch, int channels, int height,       \
        int width, int out_channels, int out_height, int out_width, int kernel_h, int kernel_w, int stride_h,         \
        int stride_w, int pad_h, int pad_w, int dilation_h, int dilation_w, int groups, int offset_groups,            \
        int x_pitch, int y_pitch, int half_offset, int packed_weight, int relu, Tile::Type* y) {                      \
        const DeformConvGeometry geometry{                                                                            \
            batch,    channels, height,     width,      out_channels, out_height,    out_width, kernel_h,             \
            kernel_w, stride_h, stride_w,   pad_h,      pad_w,        dilation_h,    dilation_w, groups,              \
            offset_groups, x_pitch, y_pitch, half_offset, packed_weight, relu};                                       \
        deform_conv<Tile, kChannelsLast>(geometry, Operands<Tile::Type>{x, weight, offset, nullptr, y});              \
    }
#else
#define ENTRY(name, Tile, kChannelsLast)                                                                              \
    extern "C" __global__ void __launch_bounds__(kThreads, 2)                                                         \
        name(const DeformConvGeometry geometry, const Operands<Tile::Type> operands) {                                \
        deform_conv<Tile, kChannelsLast>(geometry, operands);                                                         \
    }

// Weights from (out, in / groups, kh, kw) to (groups, taps, in / groups, out / groups).
template <typename T>
static __device__ __forceinline__ void pack(const DeformConvGeometry& g, const T* source, T* target) {
    const int taps = g.kernel_h * g.kernel_w, channels = g.channels / g.groups, outputs = g.out_channels / g.groups;
    const int index = blockIdx.x * kThreads + threadIdx.x;
    if (index >= g.out_channels * channels * taps) return;
    const int output = index % outputs, channel = index / outputs % channels;
    const int tap = index / outputs / channels % taps, group = index / outputs / channels / taps;
    target[index] = source[((group * outputs + output) * channels + channel) * taps + tap];
}

extern "C" __global__ void deform_conv2d_pack_f16(const DeformConvGeometry g, const Half* source, Half* target) {
    pack(g, source, target);
}
extern "C" __global__ void deform_conv2d_pack_f32(const DeformConvGeometry g, const float* source, float* target) {
    pack(g, source, target);
}
#endif

using WideTile = TensorCoreTile<64, 128>;
using NarrowTile = TensorCoreTile<128, 64>;

#ifdef DEFORM_CONV_ENTRY
#define ENTRY_OF(...) ENTRY(__VA_ARGS__)
ENTRY_OF(DEFORM_CONV_ENTRY)
#else
ENTRY(deform_conv2d_f16_nhwc_narrow, NarrowTile, true)
ENTRY(deform_conv2d_f16_nhwc_wide, WideTile, true)
ENTRY(deform_conv2d_f16_nchw_narrow, NarrowTile, false)
ENTRY(deform_conv2d_f16_nchw_wide, WideTile, false)
ENTRY(deform_conv2d_f32_nhwc, FloatTile, true)
ENTRY(deform_conv2d_f32_nchw, FloatTile, false)
#endif
