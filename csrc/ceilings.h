// What a CPU can do at most: read memory, and multiply and add in registers. Measured beside the engine, to say what
// share of it is reached.

#pragma once

#include <cstddef>
#include <cstdint>

#include "workers.h"

namespace trtdisagg {

struct CeilingKernels {
    uint32_t (*read)(const char* bytes, size_t num_bytes);  // all bits of it combined, so that none is left unread
    double (*multiply_add)(int64_t num_rounds, float* out);  // the number of operations
};

// Read everything once, with all threads.
uint32_t read_memory(const char* bytes, size_t num_bytes, Workers& workers);

// Let each thread multiply and add in registers for so many rounds: the number of operations.
double multiply_add(int64_t num_rounds, Workers& workers);

}  // namespace trtdisagg
