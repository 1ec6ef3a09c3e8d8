// Runs the benchmark's im2col on the processor: im2col_emulator CHANNELS HEIGHT WIDTH KERNEL < x, offset > columns (float32)

#include "emulator.hpp"
#include "im2col.cu"

int main(int, char** arguments) {
    const int channels = std::atoi(arguments[1]), height = std::atoi(arguments[2]), width = std::atoi(arguments[3]);
    const int kernel = std::atoi(arguments[4]), pixels = height * width;
    std::vector<float> x(channels * pixels), offset(2 * kernel * kernel * pixels), columns(channels * kernel * kernel * pixels);
    if (std::fread(x.data(), 4, x.size(), stdin) != x.size()) emulator::fail("the case is cut short");
    if (std::fread(offset.data(), 4, offset.size(), stdin) != offset.size()) emulator::fail("the case is cut short");
    const unsigned blocks = (channels * pixels + 255) / 256;
    emulator::launch({blocks, 1, 1}, 256, false, [&] {
        im2col_f32(x.data(), offset.data(), columns.data(), channels, height, width, kernel);
    });
    std::fwrite(columns.data(), 4, columns.size(), stdout);
}
