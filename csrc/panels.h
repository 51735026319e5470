// Weights from rows to the panels of linear.h, in place, and one row back.

#pragma once

#include <cstdint>
#include <vector>

#include "linear.h"

namespace trtdisagg {

enum class WeightType { bf16, f32, int8 };

int bytes_of(WeightType type);

class PackedWeight {
public:
    // Rearranges the memory of `weight`, [num_outputs][num_inputs], and of `scales`, [num_outputs][num_inputs / group]
    // or null, in place; both must outlive the object. A last panel that is not full is kept apart.
    PackedWeight(void* weight, WeightType type, float* scales, int group, int num_outputs, int num_inputs);

    Panels panels() const;

    // One row as it came, in float32.
    void row(int output, float* out) const;

private:
    const void* panel_of(int output) const;
    const float* scales_of(int output) const;

    void* const weight_;
    float* const scales_;
    const WeightType type_;
    const int group_;
    const int num_outputs_;
    const int num_inputs_;
    std::vector<uint32_t> last_, last_scales_;  // empty where all panels are full
};

}  // namespace trtdisagg
