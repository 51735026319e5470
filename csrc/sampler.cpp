#include "sampler.h"

#include <algorithm>
#include <cmath>

#include "sampling_edits.h"

namespace trtdisagg {

namespace {

struct Weighed {
    float value;
    float mass;
};

// Memory for one row at a time.
struct Scratch {
    std::vector<float> edited, maxima, sorted, values, masses;
    std::vector<int32_t> ids;
    std::vector<Weighed> weighed;

    void resize(int vocab) {
        maxima.resize(num_sampling_blocks(vocab));
        values.resize(size_t(vocab) + 1);
        ids.resize(size_t(vocab) + 1);
    }
};

Scratch& scratch(int vocab) {
    thread_local Scratch s;
    s.resize(vocab);
    return s;
}

// By SplitMix64 (Steele, Lea and Flood 2014).
uint64_t make_key(std::initializer_list<uint64_t> parts) {
    uint64_t key = 0;
    for (uint64_t part : parts) {
        key = (key ^ part) + 0x9E3779B97F4A7C15u;
        key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9u;
        key = (key ^ (key >> 27)) * 0x94D049BB133111EBu;
        key ^= key >> 31;
    }
    return key;
}

float kth_greatest(float* values, int count, int k) {
    std::nth_element(values, values + (k - 1), values + count, std::greater<float>());
    return values[k - 1];
}

// At least k values are as great: k blocks have one each. Most often few more are.
float bound_of_top(const ScaledRow& r, int k, std::vector<float>& sorted) {
    const int num_blocks = num_sampling_blocks(r.vocab);
    if (k > num_blocks) return kNothing;
    sorted.assign(r.maxima, r.maxima + num_blocks);
    return (kth_greatest(sorted.data(), num_blocks, k) - r.top) * r.inverse_temperature;
}

// The greatest value such that those at least as great have together what is wanted; by quickselect.
// above: the mass of what is greater than all of these.
float nucleus(Weighed* begin, Weighed* end, double above, double wanted) {
    for (;;) {
        const float pivot = begin[(end - begin) / 2].value;
        Weighed* const equals = std::partition(begin, end, [=](const Weighed& w) { return w.value > pivot; });
        Weighed* const less = std::partition(equals, end, [=](const Weighed& w) { return w.value == pivot; });
        double greater_mass = 0, equal_mass = 0;
        for (Weighed* w = begin; w < equals; ++w) greater_mass += w->mass;
        for (Weighed* w = equals; w < less; ++w) equal_mass += w->mass;
        if (begin < equals && above + greater_mass >= wanted) {
            end = equals;
        } else if (above + greater_mass + equal_mass >= wanted || less == end) {
            return pivot;
        } else {
            above += greater_mass + equal_mass;
            begin = less;
        }
    }
}

// The work on one row, after its block maxima are known.
class RowWork {
public:
    RowWork(const SamplingKernels& kernels, Scratch& s) : kernels_(kernels), s_(s) {}

    // The least scaled value that top_k, then top_p, then min_p leave.
    float least(const ScaledRow& r, const SampleRow& row) {
        float least = kNothing;
        const bool limits_k = row.top_k > 0 && row.top_k < r.vocab;
        if (limits_k) {
            const int count = gather(r, bound_of_top(r, row.top_k, s_.sorted));
            least = kth_greatest(s_.values.data(), count, row.top_k);
            if (row.top_p < 1) least = nucleus_among(gather(r, least), row.top_p);
        } else if (row.top_p < 1) {
            least = nucleus_of_all(r, row.top_p);
        }
        return std::max(least, row.min_scaled);
    }

    void logprobs(const ScaledRow& r, int token, int num_top, double* chosen, int32_t* top_ids, double* top,
                  int32_t* num_found) {
        const double log_sum = std::log(kernels_.weight(r));
        *chosen = double(r.x[token]) - r.top - log_sum;
        const int wanted = std::min(num_top, r.vocab);
        const int count = wanted > 0 ? gather(r, bound_of_top(r, wanted, s_.sorted)) : 0;
        int32_t* const ids = s_.ids.data();
        const auto is_better = [&](int32_t a, int32_t b) { return r.x[a] != r.x[b] ? r.x[a] > r.x[b] : a < b; };
        const int num_sorted = std::min(wanted, count);
        std::partial_sort(ids, ids + num_sorted, ids + count, is_better);
        *num_found = 0;
        for (int i = 0; i < num_sorted && r.x[ids[i]] > kNothing; ++i, ++*num_found) {
            top_ids[i] = ids[i];
            top[i] = double(r.x[ids[i]]) - r.top - log_sum;
        }
    }

private:
    int gather(const ScaledRow& r, float least, float beyond = -kNothing) {
        return kernels_.gather(r, least, beyond, {s_.values.data(), s_.ids.data()});
    }

    double weigh(int count) {
        s_.masses.resize(count);
        s_.weighed.resize(count);
        kernels_.masses(s_.values.data(), count, s_.masses.data());
        double total = 0;
        for (int i = 0; i < count; ++i) {
            s_.weighed[i] = {s_.values[i], s_.masses[i]};
            total += s_.masses[i];
        }
        return total;
    }

    float nucleus_of_gathered(int count, double above, double wanted) {
        return nucleus(s_.weighed.data(), s_.weighed.data() + count, above, wanted);
    }

    float nucleus_among(int count, double top_p) {
        const double total = weigh(count);
        return nucleus_of_gathered(count, 0, top_p * total);
    }

    // The bound is between two values, and those between them are few, or all alike.
    float nucleus_of_all(const ScaledRow& r, double top_p) {
        int count_above = 0, count = 0;
        double above = 0;
        const double wanted = top_p * kernels_.mass(r, kNothing, &count);
        float least = -4, beyond = -kNothing;  // what is sought is most often near the top
        for (double m; (m = kernels_.mass(r, least, &count)) < wanted; least *= 2) {
            beyond = least;
            above = m;
            count_above = count;
        }
        while (count - count_above > kFew && std::min(beyond, 0.0f) - least > 1e-3f) {
            const float middle = (std::min(beyond, 0.0f) + least) / 2;
            int count_middle;
            const double m = kernels_.mass(r, middle, &count_middle);
            if (m < wanted) {
                beyond = middle;
                above = m;
                count_above = count_middle;
            } else {
                least = middle;
                count = count_middle;
            }
        }
        const int found = gather(r, least, beyond);
        weigh(found);
        return nucleus_of_gathered(found, above, wanted);
    }

    static constexpr int kFew = 8192;

    const SamplingKernels& kernels_;
    Scratch& s_;
};

// The first that is as great as `top`.
int find(const float* x, const float* maxima, float top) {
    int block = 0;
    while (maxima[block] != top) ++block;
    const float* found = x + block * kSamplingBlock;
    while (*found != top) ++found;
    return int(found - x);
}

int choose(const SamplingKernels& kernels, const float* x, int vocab, const SampleRow& row, float top, Scratch& s) {
    if (row.inverse_temperature == 0) return find(x, s.maxima.data(), top);
    const ScaledRow scaled = {x, s.maxima.data(), vocab, top, row.inverse_temperature};
    const uint64_t key = make_key({row.seed, uint64_t(row.choice), uint64_t(row.position)});
    return kernels.contest(scaled, RowWork(kernels, s).least(scaled, row), key);
}

// The greatest logit, if all are numbers and one is finite; otherwise infinity.
float find_top(const SamplingKernels& kernels, const float* x, int vocab, Scratch& s) {
    if (!kernels.block_maxima(x, vocab, s.maxima.data())) return -kNothing;
    const float top = *std::max_element(s.maxima.begin(), s.maxima.end());
    return top > kNothing ? top : -kNothing;
}

}  // namespace

Sampler::Sampler(std::shared_ptr<Workers> workers, const std::string& isa)
    : workers_(std::move(workers)), kernels_(*pick_kernels(isa).sampling) {}

template <typename Body>
void Sampler::for_rows(int num_rows, int vocab, const Body& body) {
    const int threads = threads_worth(8.0 * num_rows * vocab, workers_->num_threads());
    workers_->run(num_rows, threads, [&](int row, int) { body(row, scratch(vocab)); });
}

void Sampler::sample(const float* logits, int vocab, const SampleRow* rows, int num_rows, int32_t* tokens,
                     Logprobs out, int max_top) {
    for_rows(num_rows, vocab, [&](int i, Scratch& s) {
        const SampleRow& row = rows[i];
        const float* const raw = logits + int64_t(i) * vocab;
        const float raw_top = find_top(kernels_, raw, vocab, s);
        const float *x = raw;
        float top = raw_top;
        tokens[i] = -1;
        if (raw_top == -kNothing) return;
        if (row.has_edits()) {
            s.edited.resize(vocab);
            edit(raw, vocab, row, s.edited.data());
            x = s.edited.data();
            top = find_top(kernels_, x, vocab, s);
            if (top == -kNothing) return;
        }
        tokens[i] = choose(kernels_, x, vocab, row, top, s);
        if (row.num_logprobs < 0) return;
        if (row.has_edits()) find_top(kernels_, raw, vocab, s);  // its block maxima again
        const int64_t first = int64_t(i) * max_top;
        RowWork(kernels_, s).logprobs({raw, s.maxima.data(), vocab, raw_top, 1}, tokens[i], row.num_logprobs,
                                      out.chosen + i, out.top_ids + first, out.top + first, out.num_top + i);
    });
}

void Sampler::logprobs(const float* logits, int vocab, const int32_t* tokens, int num_rows, Logprobs out,
                       int num_top) {
    for_rows(num_rows, vocab, [&](int i, Scratch& s) {
        const float* const x = logits + int64_t(i) * vocab;
        const float top = find_top(kernels_, x, vocab, s);
        const int64_t first = int64_t(i) * num_top;
        out.chosen[i] = NAN;
        out.num_top[i] = 0;
        if (top == -kNothing) return;
        RowWork(kernels_, s).logprobs({x, s.maxima.data(), vocab, top, 1}, tokens[i], num_top, out.chosen + i,
                                      out.top_ids + first, out.top + first, out.num_top + i);
    });
}

}  // namespace trtdisagg
