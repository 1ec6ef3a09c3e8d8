// Runs the emulator's cases (cases.hpp) on a GPU: gpu_runner < cases > results
//
// A small program of its own, so that compute-sanitizer has nothing else to watch and takes seconds.

#include "cuda_memory.hpp"

#include "cases.hpp"

int main() { cases::run_all(stdin, stdout); }
