// The part of a decoder that computes experts, its own for the rows of all ranks.

#include <algorithm>
#include <cstring>

#include "decoder.h"
#include "experts.h"

namespace trtdisagg {

// What all experts of all ranks give for our own rows.
void Decoder::mix(const Experts& e, const Rows& rows, bool wanted_only) {
    float *in = normed_.room(0), *out = delta_.room(0);
    if (others_.gather) {
        in = gathered_.room(int64_t(rows.all) * width_), out = mixed_.room(int64_t(rows.all) * width_);
        others_.gather(normed_.room(0), in, rows, wanted_only);
    }
    experts(e, in, out, rows.all);
    if (others_.add_up) others_.add_up(out, rows.all);
    if (others_.gather)
        std::copy_n(out + int64_t(rows.start) * width_, int64_t(rows.own) * width_, delta_.room(0));
}

void Decoder::experts(const Experts& e, const float* x, float* out, int num_rows) {
    const int count = e.router->outputs();
    float* logits = router_.room(int64_t(num_rows) * count);
    e.router->run(x, logits, num_rows);
    const std::vector<Route> found = routes(logits, num_rows, count, e.num_active, e.renormalize);
    std::memset(out, 0, sizeof(float) * num_rows * width_);
    for (size_t i = 0; i < e.experts.size(); ++i) {
        const Route& route = found[e.first + i];
        if (!route.rows.empty()) expert(e.experts[i], route.rows, route.weights, x, out);
    }
}

// What one expert adds to the rows that chose it.
void Decoder::expert(const Mlp& m, const std::vector<int>& rows, const std::vector<float>& weights, const float* x,
                     float* out) {
    const int count = int(rows.size());
    float* in = expert_in_.room(int64_t(count) * width_);
    float* result = expert_out_.room(int64_t(count) * width_);
    for (int i = 0; i < count; ++i)
        std::memcpy(in + int64_t(i) * width_, x + int64_t(rows[i]) * width_, sizeof(float) * width_);
    mlp(m, in, result, count);
    for (int i = 0; i < count; ++i)
        kernels_.add_scaled(result + int64_t(i) * width_, width_, weights[i], out + int64_t(rows[i]) * width_);
}

}  // namespace trtdisagg
