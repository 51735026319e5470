// Products with panels of weights, compiled once per instruction set with TRTDISAGG_ISA naming it (kernels.h picks one).

#include "linear_float.h"
#include "linear_int8.h"
#include "linear_pairs.h"

namespace trtdisagg::TRTDISAGG_ISA {

extern const LinearKernels linear_kernels;
const LinearKernels linear_kernels = {
    multiply<BFloat16>, multiply<Float>, multiply<Int8>, quantize, multiply<BFloat16Pairs>, round_rows, kHasPairs,
};

}  // namespace trtdisagg::TRTDISAGG_ISA
