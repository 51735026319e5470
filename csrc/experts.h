// Which experts compute which rows.

#pragma once

#include <vector>

namespace trtdisagg {

// The rows that chose one expert, in order, and the weight of its result in each.
struct Route {
    std::vector<int> rows;
    std::vector<float> weights;
};

// The softmax over a row's logits gives weights; the `num_active` largest choose, ties go to the first.
// logits: [num_rows][num_experts]; the result has a route for each expert. With `renormalize` a row's weights sum to 1.
std::vector<Route> routes(const float* logits, int num_rows, int num_experts, int num_active, bool renormalize);

}  // namespace trtdisagg
