// The TensorRT plugin deblur::DeformConv2d: attributes, inputs and meaning of the ONNX node of that name.
//
// Inputs: X (N, C, H, W), W (C_out, C / group, kh, kw), offset (N, 2 * kh * kw * offset_group, H_out, W_out), and
// optionally B (C_out). X, W, B and the output are all float32 or all float16; offsets are float32, or float16 with the
// rest. X and the output are linear, or float16 with channels last in eights. Positions are float32 in any case.
//
// Compiles against TensorRT 10.14 and 11. Nothing of TensorRT is linked, so the library loads without it.

#include "deform_conv.cu"

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IPluginV3;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

// Puts a kernel on a stream, in blocks of kThreads. The tests define it for an ordinary processor.
#ifndef LAUNCH
#define LAUNCH(kernel, grid, stream, ...) kernel<<<grid, kThreads, 0, stream>>>(__VA_ARGS__)
#endif

namespace {

constexpr char kName[] = "DeformConv2d";
constexpr char kVersion[] = "1";
constexpr char kNamespace[] = "deblur";
constexpr int32_t kFailed = -1;
constexpr int64_t kMaxElements = (int64_t{1} << 31) - 256;  // of an image or of the weights, as in geometry.py
constexpr int64_t kMaxGridYZ = 65535;

// The node's attributes, in the order of ONNX DeformConv.
struct Attributes {
    std::array<int32_t, 2> strides{1, 1};
    std::array<int32_t, 4> pads{0, 0, 0, 0};
    std::array<int32_t, 2> dilations{1, 1};
    std::array<int32_t, 2> kernel_shape{0, 0};
    std::array<int32_t, 1> group{1};
    std::array<int32_t, 1> offset_group{1};

    template <typename Visit>
    void each(Visit visit) {
        visit("strides", strides.data(), strides.size());
        visit("pads", pads.data(), pads.size());
        visit("dilations", dilations.data(), dilations.size());
        visit("kernel_shape", kernel_shape.data(), kernel_shape.size());
        visit("group", group.data(), group.size());
        visit("offset_group", offset_group.data(), offset_group.size());
    }

    // False where a field has another length or type than the node's attribute.
    bool read(const PluginFieldCollection& fields) {
        bool good = true;
        for (int32_t i = 0; i < fields.nbFields; ++i) {
            const PluginField& field = fields.fields[i];
            each([&](const char* name, int32_t* values, size_t count) {
                if (std::strcmp(name, field.name) != 0) return;
                good = good && copy(field, values, count);
            });
        }
        return good && kernel_shape[0] > 0 && kernel_shape[1] > 0 && strides[0] > 0 && strides[1] > 0 &&
            dilations[0] > 0 && dilations[1] > 0 && group[0] > 0 && offset_group[0] > 0;
    }

    static bool copy(const PluginField& field, int32_t* values, size_t count) {
        if (field.length != static_cast<int32_t>(count) || field.data == nullptr) return false;
        for (size_t v = 0; v < count; ++v) {
            if (field.type == PluginFieldType::kINT32)
                values[v] = static_cast<const int32_t*>(field.data)[v];
            else if (field.type == PluginFieldType::kINT64)
                values[v] = static_cast<int32_t>(static_cast<const int64_t*>(field.data)[v]);
            else
                return false;
        }
        return true;
    }

    // All values as text: what TensorRT's timings of two layers of the same shapes may be told apart by.
    std::string text() {
        std::string result;
        each([&](const char*, const int32_t* values, size_t count) {
            char digits[16];  // std::to_string would leave a symbol of its own to be seen
            for (size_t v = 0; v < count; ++v)
                result.append(digits, std::snprintf(digits, sizeof(digits), "%d ", values[v]));
        });
        return result;
    }

    std::vector<PluginField> fields() {
        std::vector<PluginField> result;
        each([&](const char* name, int32_t* values, size_t count) {
            result.emplace_back(name, values, PluginFieldType::kINT32, static_cast<int32_t>(count));
        });
        return result;
    }
};

bool is_half(const PluginTensorDesc& desc) { return desc.type == DataType::kHALF; }
bool has_channels_last(const PluginTensorDesc& desc) { return desc.format == TensorFormat::kHWC8; }
int32_t in_eights(int32_t channels) { return (channels + 7) / 8 * 8; }

size_t weight_bytes(const PluginTensorDesc& weight) {
    size_t count = is_half(weight) ? 2 : 4;
    for (int32_t d = 0; d < weight.dims.nbDims; ++d) count *= weight.dims.d[d];
    return count;
}

DeformConvGeometry geometry_of(const Attributes& attributes, const PluginTensorDesc* inputs, const Dims& out) {
    const Dims &x = inputs[0].dims, &weight = inputs[1].dims;
    const auto size = [](int64_t value) { return static_cast<int32_t>(value); };
    DeformConvGeometry g{};
    g.batch = size(x.d[0]), g.channels = size(x.d[1]), g.height = size(x.d[2]), g.width = size(x.d[3]);
    g.out_channels = size(weight.d[0]), g.out_height = size(out.d[2]), g.out_width = size(out.d[3]);
    g.kernel_h = attributes.kernel_shape[0], g.kernel_w = attributes.kernel_shape[1];
    g.stride_h = attributes.strides[0], g.stride_w = attributes.strides[1];
    g.pad_h = attributes.pads[0], g.pad_w = attributes.pads[1];
    g.dilation_h = attributes.dilations[0], g.dilation_w = attributes.dilations[1];
    g.groups = attributes.group[0], g.offset_groups = attributes.offset_group[0];
    g.x_pitch = in_eights(g.channels), g.y_pitch = in_eights(g.out_channels);
    g.half_offset = is_half(inputs[2]);
    g.packed_weight = 1;
    return g;
}

template <typename Tile>
dim3 grid_of(const DeformConvGeometry& g) {
    const int pixels = g.out_height * g.out_width, outputs = g.out_channels / g.groups;
    return dim3((pixels + Tile::BM - 1) / Tile::BM, (outputs + Tile::BN - 1) / Tile::BN * g.groups, g.batch);
}

unsigned blocks_of(const DeformConvGeometry& g) {
    const int64_t weights = int64_t{g.out_channels} * (g.channels / g.groups) * g.kernel_h * g.kernel_w;
    return static_cast<unsigned>((weights + kThreads - 1) / kThreads);
}

template <typename T>
Operands<T> operands_of(const void* const* inputs, int32_t count, void* const* outputs, void* packed) {
    const T* bias = count > 3 ? static_cast<const T*>(inputs[3]) : nullptr;
    return {static_cast<const T*>(inputs[0]), static_cast<const T*>(packed), inputs[2], bias,
            static_cast<T*>(outputs[0])};
}

void launch_half(const DeformConvGeometry& g, const Operands<Half>& operands, bool channels_last, cudaStream_t stream) {
    const bool wide = g.out_channels / g.groups > NarrowTile::BN;
    const dim3 grid = wide ? grid_of<WideTile>(g) : grid_of<NarrowTile>(g);
    if (wide && channels_last)
        LAUNCH(deform_conv2d_f16_nhwc_wide, grid, stream, g, operands);
    else if (wide)
        LAUNCH(deform_conv2d_f16_nchw_wide, grid, stream, g, operands);
    else if (channels_last)
        LAUNCH(deform_conv2d_f16_nhwc_narrow, grid, stream, g, operands);
    else
        LAUNCH(deform_conv2d_f16_nchw_narrow, grid, stream, g, operands);
}

class DeformConvPlugin final : public IPluginV3,
                               public nvinfer1::IPluginV3OneCore,
                               public nvinfer1::IPluginV3OneBuild,
                               public nvinfer1::IPluginV3OneRuntime {
public:
    DeformConvPlugin(const Attributes& attributes, std::string name_space)
        : attributes_(attributes), namespace_(std::move(name_space)), timing_id_(attributes_.text()) {}

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
        switch (type) {
            case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
            case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
            case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    IPluginV3* clone() noexcept override { return copied(); }
    const char* getPluginName() const noexcept override { return kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }
    int32_t getNbOutputs() const noexcept override { return 1; }

    int32_t getOutputDataTypes(
        DataType* outputs, int32_t, const DataType* inputs, int32_t count) const noexcept override {
        if (count < 3) return kFailed;
        outputs[0] = inputs[0];
        return 0;
    }

    int32_t getOutputShapes(const DimsExprs* inputs, int32_t count, const DimsExprs*, int32_t, DimsExprs* outputs,
                            int32_t, nvinfer1::IExprBuilder&) noexcept override {
        if (count < 3 || count > 4) return kFailed;
        for (int32_t i = 0; i < 3; ++i)
            if (inputs[i].nbDims != 4) return kFailed;
        outputs[0].nbDims = 4;
        outputs[0].d[0] = inputs[0].d[0];
        outputs[0].d[1] = inputs[1].d[0];
        outputs[0].d[2] = inputs[2].d[2];
        outputs[0].d[3] = inputs[2].d[3];
        return 0;
    }

    bool supportsFormatCombination(
        int32_t pos, const DynamicPluginTensorDesc* descs, int32_t inputs, int32_t) noexcept override {
        const PluginTensorDesc &x = descs[0].desc, &desc = descs[pos].desc;
        const bool linear = desc.format == TensorFormat::kLINEAR;
        if (pos == 0)
            return (linear && (is_half(desc) || desc.type == DataType::kFLOAT)) ||
                (is_half(desc) && has_channels_last(desc));
        if (pos == inputs) return desc.type == x.type && desc.format == x.format;
        if (pos == 2) return linear && (desc.type == DataType::kFLOAT || (is_half(desc) && is_half(x)));
        return linear && desc.type == x.type;
    }

    int32_t configurePlugin(
        const DynamicPluginTensorDesc* in, int32_t count, const DynamicPluginTensorDesc*, int32_t) noexcept override {
        if (count != 3 && count != 4) return kFailed;
        inputs_ = count;
        return check(in[0].max, in[1].max, in[2].max);
    }

    int32_t onShapeChange(
        const PluginTensorDesc* in, int32_t count, const PluginTensorDesc*, int32_t) noexcept override {
        inputs_ = count;
        return check(in[0].dims, in[1].dims, in[2].dims);
    }

    size_t getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t, const DynamicPluginTensorDesc*,
                            int32_t) const noexcept override {
        PluginTensorDesc weight = inputs[1].desc;
        weight.dims = inputs[1].max;
        return weight_bytes(weight);
    }

    // Packs the weights into the workspace, every time, since they are an input; then convolves.
    int32_t enqueue(const PluginTensorDesc* in, const PluginTensorDesc* out, const void* const* inputs,
                    void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
        const DeformConvGeometry g = geometry_of(attributes_, in, out[0].dims);
        if (g.batch == 0 || g.out_height == 0 || g.out_width == 0) return 0;
        if (is_half(in[0])) {
            LAUNCH(deform_conv2d_pack_f16, blocks_of(g), stream, g, static_cast<const Half*>(inputs[1]),
                   static_cast<Half*>(workspace));
            launch_half(g, operands_of<Half>(inputs, inputs_, outputs, workspace), has_channels_last(in[0]), stream);
        } else {
            LAUNCH(deform_conv2d_pack_f32, blocks_of(g), stream, g, static_cast<const float*>(inputs[1]),
                   static_cast<float*>(workspace));
            LAUNCH(deform_conv2d_f32_nchw, grid_of<FloatTile>(g), stream, g,
                   operands_of<float>(inputs, inputs_, outputs, workspace));
        }
        return cudaGetLastError() == cudaSuccess ? 0 : kFailed;
    }

    IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
        return copied();
    }

    const char* getTimingCacheID() noexcept override { return timing_id_.c_str(); }

    const PluginFieldCollection* getFieldsToSerialize() noexcept override {
        fields_ = attributes_.fields();
        collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
        return &collection_;
    }

private:
    DeformConvPlugin* copied() const {
        auto* copy = new DeformConvPlugin(attributes_, namespace_);
        copy->inputs_ = inputs_;
        return copy;
    }

    // Shapes that do not belong together, or that the kernel's 32-bit indices cannot hold, must not reach the kernel.
    int32_t check(const Dims& x, const Dims& weight, const Dims& offset) const noexcept {
        const int32_t groups = attributes_.group[0], offset_groups = attributes_.offset_group[0];
        const int32_t taps = attributes_.kernel_shape[0] * attributes_.kernel_shape[1];
        const bool fits = x.nbDims == 4 && weight.nbDims == 4 && offset.nbDims == 4 && x.d[0] == offset.d[0] &&
            weight.d[1] * groups == x.d[1] && weight.d[0] % groups == 0 && x.d[1] % offset_groups == 0 &&
            weight.d[2] == attributes_.kernel_shape[0] && weight.d[3] == attributes_.kernel_shape[1] &&
            offset.d[1] == 2 * taps * offset_groups && x.d[0] <= kMaxGridYZ;
        if (!fits) return kFailed;
        const int64_t tiles = (weight.d[0] / groups + NarrowTile::BN - 1) / NarrowTile::BN * groups;
        const int64_t sizes[] = {
            x.d[2] * x.d[3], offset.d[2] * offset.d[3], weight.d[0] * weight.d[1] * weight.d[2] * weight.d[3]};
        for (const int64_t size : sizes)
            if (size > kMaxElements) return kFailed;
        return tiles <= kMaxGridYZ ? 0 : kFailed;
    }

    Attributes attributes_;
    std::string namespace_, timing_id_;
    int32_t inputs_ = 3;
    std::vector<PluginField> fields_;
    PluginFieldCollection collection_{};
};

class DeformConvCreator final : public nvinfer1::IPluginCreatorV3One {
public:
    explicit DeformConvCreator(const char* name_space) : namespace_(name_space) {
        Attributes defaults;
        defaults.each([this](const char* name, int32_t*, size_t count) {
            fields_.emplace_back(name, nullptr, PluginFieldType::kINT32, static_cast<int32_t>(count));
        });
        collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    }

    IPluginV3* createPlugin(
        const char*, const PluginFieldCollection* fields, nvinfer1::TensorRTPhase) noexcept override {
        Attributes attributes;
        if (fields == nullptr || !attributes.read(*fields)) return nullptr;
        return new DeformConvPlugin(attributes, namespace_);
    }

    const PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
    const char* getPluginName() const noexcept override { return kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return namespace_; }

private:
    const char* namespace_;
    std::vector<PluginField> fields_;
    PluginFieldCollection collection_{};
};

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

// TensorRT asks a library that it loads for these two. The parser looks a node up in the namespace that it names, or in
// the nameless one, so the creator is in both.
EXPORTED nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static DeformConvCreator named(kNamespace), nameless("");
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&named, &nameless};
    count = 2;
    return creators;
}

EXPORTED void setLoggerFinder(nvinfer1::ILoggerFinder*) {}
