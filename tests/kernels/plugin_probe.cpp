// Loads the plugin library as TensorRT does, without TensorRT, and prints what it finds, one fact a line.
//
//     plugin_probe LIBRARY

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

using namespace nvinfer1;

static void require(bool fact, const char* what) {
    if (fact) return;
    std::printf("failed %s\n", what);
    std::exit(1);
}

static DynamicPluginTensorDesc described(Dims dims, DataType type, TensorFormat format) {
    DynamicPluginTensorDesc desc{};
    desc.desc.dims = desc.min = desc.max = desc.opt = dims;
    desc.desc.type = type;
    desc.desc.format = format;
    return desc;
}

static const char* name_of(DataType type) { return type == DataType::kHALF ? "HALF" : "FLOAT"; }
static const char* name_of(TensorFormat format) { return format == TensorFormat::kHWC8 ? "HWC8" : "LINEAR"; }

// All types and formats that the plugin takes, asked for position by position, as the builder does.
static void list_formats(IPluginV3OneBuild* build, std::vector<DynamicPluginTensorDesc> chosen, int inputs) {
    const int position = chosen.size();
    if (position == inputs + 1) {
        std::printf("formats");
        for (const auto& desc : chosen) std::printf(" %s", name_of(desc.desc.type));
        for (const auto& desc : chosen) std::printf(" %s", name_of(desc.desc.format));
        std::printf("\n");
        return;
    }
    for (DataType type : {DataType::kFLOAT, DataType::kHALF, DataType::kINT8})
        for (TensorFormat format : {TensorFormat::kLINEAR, TensorFormat::kHWC8, TensorFormat::kCHW2}) {
            auto next = chosen;
            next.push_back(described({}, type, format));
            if (build->supportsFormatCombination(position, next.data(), inputs, 1)) list_formats(build, next, inputs);
        }
}

int main(int, char** arguments) {
    void* library = dlopen(arguments[1], RTLD_NOW);
    require(library != nullptr, "dlopen");
    require(dlsym(library, "setLoggerFinder") != nullptr, "setLoggerFinder");
    auto list = reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
    int32_t count = 0;
    IPluginCreatorInterface* const* creators = list(count);
    for (int32_t i = 0; i < count; ++i) {
        auto* creator = static_cast<IPluginCreatorV3One*>(creators[i]);
        std::printf("creator %s %s [%s]\n", creator->getPluginName(), creator->getPluginVersion(),
                    creator->getPluginNamespace());
    }
    auto* creator = static_cast<IPluginCreatorV3One*>(creators[0]);
    std::printf("attributes");
    const PluginFieldCollection* names = creator->getFieldNames();
    for (int32_t i = 0; i < names->nbFields; ++i) std::printf(" %s", names->fields[i].name);
    std::printf("\n");

    const int32_t strides[] = {2, 1}, pads[] = {1, 0, 1, 0}, dilations[] = {1, 1}, kernel[] = {3, 2};
    const int64_t group = 3, offset_group = 2;
    std::vector<PluginField> fields{
        {"strides", strides, PluginFieldType::kINT32, 2},     {"pads", pads, PluginFieldType::kINT32, 4},
        {"dilations", dilations, PluginFieldType::kINT32, 2}, {"kernel_shape", kernel, PluginFieldType::kINT32, 2},
        {"group", &group, PluginFieldType::kINT64, 1},        {"offset_group", &offset_group, PluginFieldType::kINT64, 1}};
    PluginFieldCollection collection{6, fields.data()};
    IPluginV3* plugin = creator->createPlugin("layer", &collection, TensorRTPhase::kBUILD);
    require(plugin != nullptr, "createPlugin");
    fields[0].length = 1;
    require(creator->createPlugin("layer", &collection, TensorRTPhase::kBUILD) == nullptr, "a field of another length");
    fields[0].length = 2;
    collection.nbFields = 3;
    require(creator->createPlugin("layer", &collection, TensorRTPhase::kBUILD) == nullptr, "no kernel_shape");

    IPluginV3* copy = plugin->clone();
    auto* build = static_cast<IPluginV3OneBuild*>(copy->getCapabilityInterface(PluginCapabilityType::kBUILD));
    auto* runtime = static_cast<IPluginV3OneRuntime*>(copy->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
    auto* core = static_cast<IPluginV3OneCore*>(copy->getCapabilityInterface(PluginCapabilityType::kCORE));
    std::printf("core %s %s [%s]\n", core->getPluginName(), core->getPluginVersion(), core->getPluginNamespace());
    std::printf("serialized");
    const PluginFieldCollection* kept = runtime->getFieldsToSerialize();
    for (int32_t i = 0; i < kept->nbFields; ++i)
        for (int32_t v = 0; v < kept->fields[i].length; ++v)
            std::printf(" %d", static_cast<const int32_t*>(kept->fields[i].data)[v]);
    std::printf("\n");
    require(creator->createPlugin("layer", kept, TensorRTPhase::kRUNTIME) != nullptr, "createPlugin from an engine");

    const Dims x{4, {2, 48, 9, 11}}, weight{4, {21, 16, 3, 2}}, offset{4, {2, 24, 5, 10}}, y{4, {2, 21, 5, 10}};
    const DynamicPluginTensorDesc in[] = {
        described(x, DataType::kHALF, TensorFormat::kLINEAR), described(weight, DataType::kHALF, TensorFormat::kLINEAR),
        described(offset, DataType::kFLOAT, TensorFormat::kLINEAR)};
    const DynamicPluginTensorDesc out[] = {described(y, DataType::kHALF, TensorFormat::kLINEAR)};
    require(build->configurePlugin(in, 3, out, 1) == 0, "configurePlugin");
    DynamicPluginTensorDesc wrong[] = {in[0], in[1], described({4, {2, 18, 5, 10}}, DataType::kFLOAT, TensorFormat::kLINEAR)};
    require(build->configurePlugin(wrong, 3, out, 1) != 0, "offsets of too few taps");
    std::printf("timing %s\n", build->getTimingCacheID());
    std::printf("workspace %zu\n", build->getWorkspaceSize(in, 3, out, 1));
    list_formats(build, {}, 3);
    require(dlclose(library) == 0, "dlclose");
}
