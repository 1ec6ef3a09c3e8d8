// Runs an entry point of deform_conv.cu on the processor.
//
//     emulator ENTRY GRID_X GRID_Y GRID_Z REVERSED < case > result
//
// The case is the geometry's integers, then five arrays (x, weight, offset, bias, y), each a 64-bit number of bytes and
// that many bytes; an empty bias is none. The result is y, which starts as it was given: what the kernel does not write
// stays. Arrays are on the heap, exactly as large as given, so that the address sanitizer sees any access outside.

#include "emulator.hpp"
// The kernel itself.
#include "deform_conv.cu"

#include <map>
#include <string>

namespace {

struct Array {
    size_t bytes = 0;
    unsigned char* data = nullptr;

    ~Array() { std::free(data); }

    void read() {
        std::uint64_t length = 0;
        if (std::fread(&length, sizeof(length), 1, stdin) != 1) emulator::fail("the case is cut short");
        bytes = length;
        if (bytes == 0) return;
        if (posix_memalign(reinterpret_cast<void**>(&data), 16, bytes) != 0) emulator::fail("out of memory");
        if (std::fread(data, 1, bytes, stdin) != bytes) emulator::fail("the case is cut short");
    }
};

template <typename T>
using Kernel = void (*)(DeformConvGeometry, Operands<T>);

const std::map<std::string, Kernel<Half>> kHalf{
    {"deform_conv2d_f16_nhwc_narrow", deform_conv2d_f16_nhwc_narrow},
    {"deform_conv2d_f16_nhwc_wide", deform_conv2d_f16_nhwc_wide},
    {"deform_conv2d_f16_nchw_narrow", deform_conv2d_f16_nchw_narrow},
    {"deform_conv2d_f16_nchw_wide", deform_conv2d_f16_nchw_wide},
};
const std::map<std::string, Kernel<float>> kFloat{
    {"deform_conv2d_f32_nhwc", deform_conv2d_f32_nhwc},
    {"deform_conv2d_f32_nchw", deform_conv2d_f32_nchw},
};

template <typename T>
void run(Kernel<T> kernel, Index grid, bool reversed, const DeformConvGeometry& geometry, Array (&arrays)[5]) {
    Operands<T> operands{
        reinterpret_cast<T*>(arrays[0].data), reinterpret_cast<T*>(arrays[1].data), arrays[2].data,
        reinterpret_cast<T*>(arrays[3].data), reinterpret_cast<T*>(arrays[4].data)};
    emulator::launch(grid, kThreads, reversed, [&] { kernel(geometry, operands); });
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 6) emulator::fail("usage: emulator ENTRY GRID_X GRID_Y GRID_Z REVERSED");
    const std::string entry = arguments[1];
    const Index grid{
        unsigned(std::atoi(arguments[2])), unsigned(std::atoi(arguments[3])), unsigned(std::atoi(arguments[4]))};
    const bool reversed = std::atoi(arguments[5]) != 0;
    DeformConvGeometry geometry;
    if (std::fread(&geometry, sizeof(geometry), 1, stdin) != 1) emulator::fail("the case is cut short");
    Array arrays[5];
    for (Array& array : arrays) array.read();
    if (kHalf.count(entry))
        run(kHalf.at(entry), grid, reversed, geometry, arrays);
    else if (kFloat.count(entry))
        run(kFloat.at(entry), grid, reversed, geometry, arrays);
    else if (entry == "deform_conv2d_pack_f16")
        emulator::launch(grid, kThreads, reversed, [&] {
            deform_conv2d_pack_f16(geometry, (Half*)arrays[1].data, (Half*)arrays[4].data);
        });
    else
        emulator::fail("no such entry point");
    std::fwrite(arrays[4].data, 1, arrays[4].bytes, stdout);
}
