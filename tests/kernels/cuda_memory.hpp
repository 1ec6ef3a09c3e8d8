// The memory of a GPU, as cases.hpp asks for it.

#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

static void require(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
    std::exit(4);
}

static void* copy_to_device(const void* data, size_t bytes) {
    void* memory = nullptr;
    require(cudaMalloc(&memory, bytes), "cudaMalloc");
    require(cudaMemcpy(memory, data, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
    return memory;
}

static void copy_to_host(void* target, const void* device, size_t bytes) {
    require(cudaMemcpy(target, device, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
}

static void release(void* device) { require(cudaFree(device), "cudaFree"); }

static void finish() {
    require(cudaGetLastError(), "launch");
    require(cudaDeviceSynchronize(), "kernel");
}
