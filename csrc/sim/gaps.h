// A histogram of the times between two tokens of a stream, in bins that are 1 % wide: a million streams have too many
// to keep them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace trtdisagg::sim {

class Gaps {
  public:
    static constexpr double least_s = 1e-6, ratio = 1.01;

    void add(double seconds, int64_t num) { at(bin(seconds)) += num; }

    // `num_each` for each of `num_steps`, the first of which takes `first_s`, and each `more_s` more than the last.
    void add_run(double first_s, double more_s, int64_t num_steps, int64_t num_each) {
        for (int64_t step = 0; step < num_steps;) {
            double seconds = first_s + more_s * static_cast<double>(step);
            size_t index = bin(seconds);
            int64_t num = num_steps - step;
            if (more_s > 0) {
                double left = (least_s * std::pow(ratio, static_cast<double>(index + 1)) - seconds) / more_s;
                if (left < static_cast<double>(num)) num = std::max<int64_t>(1, static_cast<int64_t>(std::ceil(left)));
            }
            at(index) += num * num_each;
            step += num;
        }
    }

    const std::vector<int64_t>& counts() const { return counts_; }

  private:
    static size_t bin(double seconds) {
        return seconds <= least_s ? 0 : static_cast<size_t>(std::log(seconds / least_s) / std::log(ratio));
    }
    int64_t& at(size_t index) {
        if (index >= counts_.size()) counts_.resize(index + 1);
        return counts_[index];
    }

    std::vector<int64_t> counts_;
};

}  // namespace trtdisagg::sim
