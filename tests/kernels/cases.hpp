// Cases for the kernels and for the plugin, read from a file, run, and the result written: the same on the processor
// and on a GPU. The including file has the kernels, LAUNCH, and these four: `copy_to_device(data, bytes)`,
// `copy_to_host(target, device, bytes)`, `release(device)` and `finish()`, which waits and reports failures.
//
// A case is the name of an entry point (or `plugin`) in 64 bytes, three 32-bit integers for the grid and one that says
// whether channels come last; the geometry's integers; then five arrays (x, weight, offset, bias, y), each a 64-bit
// number of bytes and that many bytes. An empty bias is none. The result is y, which starts as it was given: what is not
// written stays. Arrays are exactly as large as given, so that a sanitizer sees any access outside.

#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "plugin/deform_conv_plugin.cu"

namespace cases {

[[noreturn]] inline void fail(const char* message) {
    std::fprintf(stderr, "cases: %s\n", message);
    std::exit(3);
}

inline void read(std::FILE* file, void* target, size_t bytes) {
    if (bytes && std::fread(target, 1, bytes, file) != bytes) fail("the case is cut short");
}

class Array {
public:
    ~Array() {
        if (device_ != nullptr) release(device_);
    }

    void load(std::FILE* file) {
        std::uint64_t bytes = 0;
        read(file, &bytes, sizeof(bytes));
        host_.resize(bytes);
        read(file, host_.data(), bytes);
        if (bytes) device_ = copy_to_device(host_.data(), bytes);
    }

    const std::vector<unsigned char>& fetch() {
        if (device_ != nullptr) copy_to_host(host_.data(), device_, host_.size());
        return host_;
    }

    template <typename T>
    T* as() const {
        return static_cast<T*>(device_);
    }

private:
    std::vector<unsigned char> host_;
    void* device_ = nullptr;
};

struct Header {
    char entry[64];
    std::uint32_t grid[3];
    std::int32_t channels_last;
    DeformConvGeometry geometry;
};

// Create the plugin as an engine does, hand it the shapes, and let it put its kernels on the stream.
inline void run_plugin(const Header& header, Array (&arrays)[5]) {
    using namespace nvinfer1;
    const DeformConvGeometry& g = header.geometry;
    const int32_t strides[] = {g.stride_h, g.stride_w}, pads[] = {g.pad_h, g.pad_w, g.pad_h, g.pad_w};
    const int32_t dilations[] = {g.dilation_h, g.dilation_w}, kernel[] = {g.kernel_h, g.kernel_w};
    const std::vector<PluginField> fields{
        {"strides", strides, PluginFieldType::kINT32, 2},
        {"pads", pads, PluginFieldType::kINT32, 4},
        {"dilations", dilations, PluginFieldType::kINT32, 2},
        {"kernel_shape", kernel, PluginFieldType::kINT32, 2},
        {"group", &g.groups, PluginFieldType::kINT32, 1},
        {"offset_group", &g.offset_groups, PluginFieldType::kINT32, 1}};
    const PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
    int32_t creators = 0;
    auto* creator = static_cast<IPluginCreatorV3One*>(getCreators(creators)[0]);
    IPluginV3* made = creator->createPlugin("layer", &collection, TensorRTPhase::kBUILD);
    if (made == nullptr) fail("the plugin refuses its attributes");

    const bool half = std::strstr(header.entry, "f16") != nullptr;
    const DataType type = half ? DataType::kHALF : DataType::kFLOAT;
    const DataType offsets = g.half_offset ? DataType::kHALF : DataType::kFLOAT;
    const TensorFormat format = header.channels_last ? TensorFormat::kHWC8 : TensorFormat::kLINEAR;
    const int32_t inputs = arrays[3].as<void>() ? 4 : 3, taps = g.kernel_h * g.kernel_w;
    const auto described = [](Dims dims, DataType of, TensorFormat in) {
        DynamicPluginTensorDesc desc{};
        desc.desc.dims = desc.min = desc.max = desc.opt = dims;
        desc.desc.type = of;
        desc.desc.format = in;
        return desc;
    };
    const TensorFormat linear = TensorFormat::kLINEAR;
    const DynamicPluginTensorDesc descs[] = {
        described({4, {g.batch, g.channels, g.height, g.width}}, type, format),
        described({4, {g.out_channels, g.channels / g.groups, g.kernel_h, g.kernel_w}}, type, linear),
        described({4, {g.batch, 2 * taps * g.offset_groups, g.out_height, g.out_width}}, offsets, linear),
        described({1, {g.out_channels}}, type, linear)};
    const DynamicPluginTensorDesc result =
        described({4, {g.batch, g.out_channels, g.out_height, g.out_width}}, type, format);
    auto* build = static_cast<IPluginV3OneBuild*>(made->getCapabilityInterface(PluginCapabilityType::kBUILD));
    if (build->configurePlugin(descs, inputs, &result, 1) != 0) fail("the plugin refuses its shapes");
    const std::vector<unsigned char> empty(build->getWorkspaceSize(descs, inputs, &result, 1), 0xFF);
    void* workspace = copy_to_device(empty.data(), empty.size());

    IPluginV3* cloned = made->clone();
    auto* runtime = static_cast<IPluginV3OneRuntime*>(cloned->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    IPluginV3* plugin = runtime->attachToContext(nullptr);
    runtime = static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    const PluginTensorDesc in[] = {descs[0].desc, descs[1].desc, descs[2].desc, descs[3].desc};
    const void* operands[] = {
        arrays[0].as<void>(), arrays[1].as<void>(), arrays[2].as<void>(), arrays[3].as<void>()};
    void* outputs[] = {arrays[4].as<void>()};
    if (runtime->onShapeChange(in, inputs, &result.desc, 1) != 0) fail("the plugin refuses its shapes at run time");
    if (runtime->enqueue(in, &result.desc, operands, outputs, workspace, nullptr) != 0) fail("enqueue failed");
    finish();
    release(workspace);
    for (IPluginV3* one : {made, cloned, plugin}) delete one;
}

template <typename T>
Operands<T> operands_of(const Array (&arrays)[5]) {
    return {arrays[0].as<T>(), arrays[1].as<T>(), arrays[2].as<void>(), arrays[3].as<T>(), arrays[4].as<T>()};
}

inline void run_kernel(const Header& header, Array (&arrays)[5]) {
    const std::string entry = header.entry;
    const dim3 grid(header.grid[0], header.grid[1], header.grid[2]);
    const DeformConvGeometry& g = header.geometry;
    const cudaStream_t stream = nullptr;
    const Operands<Half> halves = operands_of<Half>(arrays);
    const Operands<float> floats = operands_of<float>(arrays);
    if (entry == "deform_conv2d_f16_nhwc_narrow")
        LAUNCH(deform_conv2d_f16_nhwc_narrow, grid, stream, g, halves);
    else if (entry == "deform_conv2d_f16_nhwc_wide")
        LAUNCH(deform_conv2d_f16_nhwc_wide, grid, stream, g, halves);
    else if (entry == "deform_conv2d_f16_nchw_narrow")
        LAUNCH(deform_conv2d_f16_nchw_narrow, grid, stream, g, halves);
    else if (entry == "deform_conv2d_f16_nchw_wide")
        LAUNCH(deform_conv2d_f16_nchw_wide, grid, stream, g, halves);
    else if (entry == "deform_conv2d_f32_nhwc")
        LAUNCH(deform_conv2d_f32_nhwc, grid, stream, g, floats);
    else if (entry == "deform_conv2d_f32_nchw")
        LAUNCH(deform_conv2d_f32_nchw, grid, stream, g, floats);
    else
        fail("no such entry point");
    finish();
}

// Run every case of a file and write the results one after the other.
inline void run_all(std::FILE* file, std::FILE* out) {
    Header header;
    for (size_t got; (got = std::fread(&header, 1, sizeof(header), file)) != 0;) {
        if (got != sizeof(header)) fail("the case is cut short");
        Array arrays[5];
        for (Array& array : arrays) array.load(file);
        if (std::strncmp(header.entry, "plugin", 6) == 0)
            run_plugin(header, arrays);
        else
            run_kernel(header, arrays);
        const std::vector<unsigned char>& result = arrays[4].fetch();
        std::fwrite(result.data(), 1, result.size(), out);
    }
}

}  // namespace cases
