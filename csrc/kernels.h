// The kernels for the instruction sets this build has, and the choice among them at run time.

#pragma once

#include <string>
#include <vector>

#include "attention.h"
#include "ceilings.h"
#include "linear.h"
#include "rowwise.h"
#include "sampling.h"

namespace trtdisagg {

struct Kernels {
    std::string isa;
    const AttentionKernels* attention;
    const LinearKernels* linear;
    const RowwiseKernels* rowwise;
    const SamplingKernels* sampling;
    const CeilingKernels* ceilings;
};

// Those this CPU can run, best first; never empty.
const std::vector<Kernels>& usable_kernels();

// The best, or the one named; "emulated_bf16", which no CPU is given by itself, is there for tests.
// Throws std::invalid_argument when this CPU or this build lacks it.
const Kernels& pick_kernels(const std::string& isa);

}  // namespace trtdisagg
