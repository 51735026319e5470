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
#ifdef TRTDISAGG_AVX512BF16
namespace avx512bf16 {
extern const LinearKernels linear_kernels;
}
#endif

namespace {

// The same but for the products.
Kernels with_linear(Kernels kernels, const std::string& isa, const LinearKernels& linear) {
    kernels.isa = isa;
    kernels.linear = &linear;
    return kernels;
}

// Products of pairs the slow way, with the logic around them that a CPU with the instruction runs: picked by name, by
// tests that run on every CPU.
const Kernels& emulated_bf16() {
    static const LinearKernels linear = [] {
        LinearKernels kernels = baseline::linear_kernels;
        kernels.has_pairs = true;
        return kernels;
    }();
    static const Kernels kernels = with_linear(KERNELS(baseline), "emulated_bf16", linear);
    return kernels;
}

#ifdef TRTDISAGG_X86
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

std::vector<Kernels> find() {
    std::vector<Kernels> found;
#ifdef TRTDISAGG_X86
#ifdef TRTDISAGG_AVX512BF16
    if (has_avx512() && __builtin_cpu_supports("avx512bf16"))
        found.push_back(with_linear(KERNELS(avx512), "avx512bf16", avx512bf16::linear_kernels));
#endif
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
    if (isa == "emulated_bf16") return emulated_bf16();
    for (const Kernels& k : usable_kernels())
        if (isa.empty() || k.isa == isa) return k;
    throw std::invalid_argument("no kernels for " + isa + " on this machine");
}

}  // namespace trtdisagg
