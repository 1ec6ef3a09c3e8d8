// What deform_conv.cu needs of a GPU, on an ordinary processor: the threads of a block are fibers on one thread.
//
// A barrier hands control to the next fiber, so every run is repeatable; running the fibers in the opposite order must
// give the same bits, or a barrier is missing. Shared memory is on the heap, exactly as large as asked for, and full of
// NaN when a block starts. Warp-wide operations are carried out by the first lane of the warp.
//
// Compiled with -fsanitize=thread it finds races: to the sanitizer every fiber is a thread, and only barriers order what
// two of them do. Each turn of a barrier is a token of its own, which all release when they come and acquire when they
// go; with one token for all turns, a fast fiber's later work would count as done before a slow one leaves.

#pragma once

#include <ucontext.h>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define UNWATCHED __attribute__((noinline, no_sanitize_thread))  // the emulator's own state is no business of the race detector
#else
#define UNWATCHED
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

using std::max;
using std::min;

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define SHARED_MEMORY(name, bytes) unsigned char* name = emulator::shared_memory(bytes)

struct uint4 {
    unsigned x, y, z, w;
};
struct float4 {
    float x, y, z, w;
};
struct Index {
    unsigned x, y, z;
};

inline Index blockIdx;
#define threadIdx (emulator::thread_index())

namespace emulator {

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    State state;
    void* watched;  // what the race detector knows it by
    unsigned block_turns, warp_turns;
};

constexpr size_t kStackBytes = 256 * 1024;
constexpr unsigned kWarp = 32, kWarps = 32, kTurns = 4096;

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline unsigned running;
inline std::function<void()> body;
inline unsigned char* shared = nullptr;
inline size_t shared_bytes = 0;
inline const char* left_out_file = "";  // the barrier that is left out
inline int left_out_line = 0;

[[noreturn]] inline void fail(const char* message) {
    std::fprintf(stderr, "emulator: %s\n", message);
    std::exit(3);
}

UNWATCHED inline Index thread_index() { return {running, 0, 0}; }

#ifdef __SANITIZE_THREAD__
inline void* watched_scheduler = nullptr;
inline std::uint64_t tokens[1 + kWarps][kTurns], block_start, block_end;
alignas(32) inline unsigned char watched_memory[64 * 1024];

UNWATCHED inline void watch(void* fiber) { __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync); }
UNWATCHED inline void announce(void* token) { __tsan_release(token); }
UNWATCHED inline void heed(void* token) { __tsan_acquire(token); }

UNWATCHED inline void* token_of(Fiber& fiber, State state) {
    const bool block = state == State::kAtBlockBarrier;
    const unsigned turn = block ? fiber.block_turns++ : fiber.warp_turns++;
    if (turn >= kTurns) fail("more turns of a barrier than the race detector has tokens for");
    return &tokens[block ? 0 : 1 + running / kWarp][turn];
}

// The scheduler has filled it before the block started.
UNWATCHED inline unsigned char* shared_memory(size_t bytes) {
    if (bytes > sizeof(watched_memory)) fail("more shared memory than the race detector has");
    return watched_memory;
}
#else
inline std::uint64_t block_start, block_end;
inline void* watched_scheduler = nullptr;
inline void watch(void*) {}
inline void announce(void*) {}
inline void heed(void*) {}
inline void* token_of(Fiber&, State) { return nullptr; }

// The first fiber of a block allocates; the others get the same memory.
inline unsigned char* shared_memory(size_t bytes) {
    if (shared == nullptr) {
        shared = static_cast<unsigned char*>(std::aligned_alloc(32, (bytes + 31) / 32 * 32));
        std::memset(shared, 0xFF, bytes);
        shared_bytes = bytes;
    }
    if (shared_bytes != bytes) fail("threads of a block disagree about their shared memory");
    return shared;
}
#endif

UNWATCHED inline void yield_to_scheduler(Fiber& self) {
    watch(watched_scheduler);
    swapcontext(&self.context, &scheduler);
}

UNWATCHED inline void barrier(State state, const char* file, int line) {
    if (line == left_out_line && std::strstr(file, left_out_file)) return;
    Fiber& self = fibers.data()[running];
    void* token = token_of(self, state);
    announce(token);
    self.state = state;
    yield_to_scheduler(self);
    heed(token);
}

UNWATCHED inline void enter() {
    heed(&block_start);
    body();
    Fiber& self = fibers.data()[running];
    announce(&block_end);
    self.state = State::kDone;
    yield_to_scheduler(self);
}

// Let fibers pass a barrier that all of them, from first to last, have reached.
inline bool release(unsigned first, unsigned last, State barrier) {
    for (unsigned i = first; i < last; ++i)
        if (fibers[i].state != barrier) return false;
    for (unsigned i = first; i < last; ++i) fibers[i].state = State::kReady;
    return true;
}

UNWATCHED inline void resume(Fiber& fiber) {
    watch(fiber.watched);
    swapcontext(&scheduler, &fiber.context);
}

inline void run_block(unsigned threads, bool reversed) {
    if (fibers.size() != threads) fibers = std::vector<Fiber>(threads);
    for (Fiber& fiber : fibers) {
        if (!fiber.stack) {
            fiber.stack = std::make_unique<char[]>(kStackBytes);
#ifdef __SANITIZE_THREAD__
            watched_scheduler = __tsan_get_current_fiber();
            fiber.watched = __tsan_create_fiber(0);
#endif
        }
        fiber.block_turns = fiber.warp_turns = 0;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStackBytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
        fiber.state = State::kReady;
    }
#ifdef __SANITIZE_THREAD__
    std::memset(watched_memory, 0xFF, sizeof(watched_memory));
#endif
    announce(&block_start);
    for (bool moved = true; moved;) {
        moved = false;
        for (unsigned i = 0; i < threads; ++i) {
            running = reversed ? threads - 1 - i : i;
            if (fibers[running].state != State::kReady) continue;
            resume(fibers[running]);
            moved = true;
        }
        moved |= release(0, threads, State::kAtBlockBarrier);
        for (unsigned warp = 0; warp < threads; warp += kWarp)
            moved |= release(warp, warp + kWarp, State::kAtWarpBarrier);
    }
    for (const Fiber& fiber : fibers)
        if (fiber.state != State::kDone) fail("threads wait at a barrier that others never reach");
    heed(&block_end);
    std::free(shared);
    shared = nullptr;
}

inline void launch(Index grid, unsigned threads, bool reversed, std::function<void()> kernel) {
    body = std::move(kernel);
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block(threads, reversed);
}

template <typename To, typename From>
inline To bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    std::memcpy(&result, &value, sizeof(To));
    return result;
}

}  // namespace emulator

#define __syncthreads() emulator::barrier(emulator::State::kAtBlockBarrier, __FILE__, __LINE__)
#define __syncwarp() emulator::barrier(emulator::State::kAtWarpBarrier, __FILE__, __LINE__)
inline unsigned __float_as_uint(float value) { return emulator::bits<unsigned>(value); }
inline float __uint_as_float(unsigned value) { return emulator::bits<float>(value); }

typedef std::uint16_t Half;

inline float half_to_float(Half value) { return static_cast<float>(emulator::bits<_Float16>(value)); }
inline Half float_to_half(float value) { return emulator::bits<Half>(static_cast<_Float16>(value)); }

template <typename Operation>
inline unsigned each_half(Operation operation) {
    return operation(0) | static_cast<unsigned>(operation(16)) << 16;
}
inline Half round_to_half(double value) { return emulator::bits<Half>(static_cast<_Float16>(value)); }
inline double half_at(unsigned pair, int shift) { return half_to_float(static_cast<Half>(pair >> shift)); }

inline unsigned half2_multiply(unsigned a, unsigned b) {
    return each_half([=](int shift) { return round_to_half(half_at(a, shift) * half_at(b, shift)); });
}
inline unsigned half2_multiply_add(unsigned a, unsigned b, unsigned c) {
    return each_half([=](int s) { return round_to_half(half_at(a, s) * half_at(b, s) + half_at(c, s)); });
}

// Only the first lane's fragments hold anything.
struct FragmentA {
    float values[16][16];
};
struct FragmentB {
    float values[16][16];
};
struct FragmentC {
    float values[16][16];
};

inline bool first_lane() { return threadIdx.x % 32 == 0; }

inline void require_aligned(const void* tile, int stride_bytes) {
    if (reinterpret_cast<std::uintptr_t>(tile) % 32 || stride_bytes % 16) emulator::fail("a misaligned matrix tile");
}

template <typename Fragment>
inline void load_tile(Fragment& fragment, const Half* tile, int stride) {
    require_aligned(tile, stride * 2);
    if (!first_lane()) return;
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) fragment.values[i][j] = half_to_float(tile[i * stride + j]);
}
inline void load_a(FragmentA& fragment, const Half* tile, int stride) { load_tile(fragment, tile, stride); }
inline void load_b(FragmentB& fragment, const Half* tile, int stride) { load_tile(fragment, tile, stride); }

inline void multiply_add(FragmentC& sum, const FragmentA& a, const FragmentB& b) {
    if (!first_lane()) return;
    for (int i = 0; i < 16; ++i)
        for (int k = 0; k < 16; ++k)
            for (int j = 0; j < 16; ++j) sum.values[i][j] += a.values[i][k] * b.values[k][j];
}

inline void store_c(float* tile, const FragmentC& fragment, int stride) {
    require_aligned(tile, stride * 4);
    if (!first_lane()) return;
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) tile[i * stride + j] = fragment.values[i][j];
}

inline void clear(FragmentC& fragment) {
    if (first_lane()) std::memset(fragment.values, 0, sizeof(fragment.values));
}
