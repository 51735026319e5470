#include "experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace trtdisagg {

std::vector<Route> routes(const float* logits, int num_rows, int num_experts, int num_active, bool renormalize) {
    std::vector<Route> found(num_experts);
    std::vector<float> weights(num_experts);
    std::vector<int> order(num_experts);
    for (int row = 0; row < num_rows; ++row, logits += num_experts) {
        const float top = *std::max_element(logits, logits + num_experts);
        for (int e = 0; e < num_experts; ++e) weights[e] = std::exp(logits[e] - top);
        std::iota(order.begin(), order.end(), 0);
        // A NaN must not break the order: it counts as the largest, and makes the row's result NaN.
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
            return std::isnan(weights[a]) ? !std::isnan(weights[b]) : weights[a] > weights[b];
        });
        float total = 0;
        for (int i = 0; i < (renormalize ? num_active : num_experts); ++i) total += weights[order[i]];
        for (int i = 0; i < num_active; ++i) {
            found[order[i]].rows.push_back(row);
            found[order[i]].weights.push_back(weights[order[i]] / total);
        }
    }
    return found;
}

}  // namespace trtdisagg
