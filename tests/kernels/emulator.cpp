// Runs cases (cases.hpp) on the processor: emulator REVERSED [FILE LINE] < cases > results
//
// REVERSED is 1 to run the threads of a block from the last to the first. FILE and LINE are the place of a barrier in
// the kernel's sources that is left out.

#include "emulator.hpp"

#include <cuda_runtime_api.h>

static bool reversed = false;

#define LAUNCH(kernel, grid, stream, ...)                                                                   \
    do {                                                                                                    \
        const dim3 launched = grid;                                                                         \
        (void)(stream);                                                                                     \
        emulator::launch({launched.x, launched.y, launched.z}, 256, reversed, [=] { kernel(__VA_ARGS__); }); \
    } while (false)

static void* copy_to_device(const void* data, size_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 16, bytes) != 0) emulator::fail("out of memory");
    std::memcpy(memory, data, bytes);
    return memory;
}
static void copy_to_host(void* target, const void* device, size_t bytes) { std::memcpy(target, device, bytes); }
static void release(void* device) { std::free(device); }
static void finish() {}

#include "cases.hpp"

int main(int count, char** arguments) {
    if (count != 2 && count != 4) emulator::fail("usage: emulator REVERSED [FILE LINE]");
    reversed = std::atoi(arguments[1]) != 0;
    if (count == 4) {
        emulator::left_out_file = arguments[2];
        emulator::left_out_line = std::atoi(arguments[3]);
    }
    cases::run_all(stdin, stdout);
}
