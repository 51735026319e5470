#include "kernels.h"

#include <stdexcept>

namespace trtdisagg {

#define DECLARE(isa)                                  \
    namespace isa {                                   \
    extern const AttentionKernels attention_kernels;  \
    extern const LinearKernels linear_kernels;        \
    extern const RowwiseKernels rowwise_kernels;      \
    extern const SamplingKernels sampling_kernels;    \
    extern const CeilingKernels ceiling_kernels;      \
    }
#define KERNELS(isa)                                                                                            \
    {#isa, &isa::attention_kernels, &isa::linear_kernels, &isa::rowwise_kernels, &isa::sampling_kernels, \
     &isa::ceiling_kernels}

DECLARE(baseline)
#ifdef TRTDISAGG_X86
DECLARE(avx2)
DECLARE(avx512)
#endif

namespace {

#ifdef TRTDISAGG_X86
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

std::vector<Kernels> find() {
    std::vector<Kernels> found;
#ifdef TRTDISAGG_X86
    if (has_avx512()) found.push_back(KERNELS(avx512));
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(KERNELS(avx2));
#endif
    found.push_back(KERNELS(baseline));
    return found;
}

}  // namespace

const std::vector<Kernels>& usable_kernels() {
    static const std::vector<Kernels> kernels = find();
    return kernels;
}

const Kernels& pick_kernels(const std::string& isa) {
    for (const Kernels& k : usable_kernels())
        if (isa.empty() || k.isa == isa) return k;
    throw std::invalid_argument("no kernels for " + isa + " on this machine");
}

}  // namespace trtdisagg
