// The part of TensorRT's plugin interface that the plugin touches, for machines without TensorRT's headers. The program
// that calls the plugin is compiled against it too, so only names and meanings have to be TensorRT's, not the layout in
// memory. Where the real headers are, the tests compile the same sources against them as well.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace nvinfer1 {

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2 };
enum class TensorFormat : int32_t { kLINEAR = 0, kCHW2 = 1, kHWC8 = 2 };
enum class PluginFieldType : int32_t { kINT32 = 5, kINT64 = 10 };
enum class PluginCapabilityType : int32_t { kCORE = 0, kBUILD = 1, kRUNTIME = 2 };
enum class TensorRTPhase : int32_t { kBUILD = 0, kRUNTIME = 1 };

struct Dims {
    int32_t nbDims;
    int64_t d[8];
};

struct PluginTensorDesc {
    Dims dims;
    DataType type;
    TensorFormat format;
    float scale;
};

struct DynamicPluginTensorDesc {
    PluginTensorDesc desc;
    Dims min, max, opt;
};

class IDimensionExpr;
class IExprBuilder;
class ILoggerFinder;
class IPluginResourceContext;

struct DimsExprs {
    int32_t nbDims;
    const IDimensionExpr* d[8];
};

struct PluginField {
    const char* name;
    const void* data;
    PluginFieldType type;
    int32_t length;

    PluginField(const char* name_, const void* data_, PluginFieldType type_, int32_t length_)
        : name(name_), data(data_), type(type_), length(length_) {}
};

struct PluginFieldCollection {
    int32_t nbFields{};
    const PluginField* fields{};
};

struct IPluginCapability {
    virtual ~IPluginCapability() = default;
};

struct IPluginV3 {
    virtual ~IPluginV3() = default;
    virtual IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept = 0;
    virtual IPluginV3* clone() noexcept = 0;
};

struct IPluginV3OneCore : IPluginCapability {
    virtual const char* getPluginName() const noexcept = 0;
    virtual const char* getPluginVersion() const noexcept = 0;
    virtual const char* getPluginNamespace() const noexcept = 0;
};

struct IPluginV3OneBuild : IPluginCapability {
    virtual int32_t configurePlugin(
        const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*, int32_t) noexcept = 0;
    virtual int32_t getOutputDataTypes(DataType*, int32_t, const DataType*, int32_t) const noexcept = 0;
    virtual int32_t getOutputShapes(
        const DimsExprs*, int32_t, const DimsExprs*, int32_t, DimsExprs*, int32_t, IExprBuilder&) noexcept = 0;
    virtual bool supportsFormatCombination(int32_t, const DynamicPluginTensorDesc*, int32_t, int32_t) noexcept = 0;
    virtual int32_t getNbOutputs() const noexcept = 0;
    virtual size_t getWorkspaceSize(
        const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*, int32_t) const noexcept = 0;
    virtual const char* getTimingCacheID() noexcept = 0;
};

struct IPluginV3OneRuntime : IPluginCapability {
    virtual int32_t onShapeChange(const PluginTensorDesc*, int32_t, const PluginTensorDesc*, int32_t) noexcept = 0;
    virtual int32_t enqueue(const PluginTensorDesc*, const PluginTensorDesc*, const void* const*, void* const*, void*,
                            cudaStream_t) noexcept = 0;
    virtual IPluginV3* attachToContext(IPluginResourceContext*) noexcept = 0;
    virtual const PluginFieldCollection* getFieldsToSerialize() noexcept = 0;
};

struct IPluginCreatorInterface {
    virtual ~IPluginCreatorInterface() = default;
};

struct IPluginCreatorV3One : IPluginCreatorInterface {
    virtual IPluginV3* createPlugin(const char*, const PluginFieldCollection*, TensorRTPhase) noexcept = 0;
    virtual const PluginFieldCollection* getFieldNames() noexcept = 0;
    virtual const char* getPluginName() const noexcept = 0;
    virtual const char* getPluginVersion() const noexcept = 0;
    virtual const char* getPluginNamespace() const noexcept = 0;
};

}  // namespace nvinfer1
