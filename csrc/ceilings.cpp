#include "ceilings.h"

#include <algorithm>
#include <vector>

#include "kernels.h"

namespace trtdisagg {

uint32_t read_memory(const char* bytes, size_t num_bytes, Workers& workers) {
    constexpr size_t kPiece = 1 << 20;
    const auto read = pick_kernels("").ceilings->read;
    std::vector<uint32_t> found(workers.num_threads());
    workers.run(int((num_bytes + kPiece - 1) / kPiece), workers.num_threads(), [&](int piece, int thread) {
        const size_t begin = piece * kPiece;
        found[thread] ^= read(bytes + begin, std::min(kPiece, num_bytes - begin));
    });
    uint32_t all = 0;
    for (uint32_t part : found) all ^= part;
    return all;
}

double multiply_add(int64_t num_rounds, Workers& workers) {
    const auto run = pick_kernels("").ceilings->multiply_add;
    const int num_threads = workers.num_threads();
    std::vector<double> num_operations(num_threads);
    std::vector<float> out(num_threads);
    workers.run(num_threads, num_threads,
                [&](int task, int) { num_operations[task] = run(num_rounds, &out[task]); });
    double all = 0;
    for (double part : num_operations) all += part;
    return all;
}

}  // namespace trtdisagg
