// Tokens for all rows of a step in one call; engine/sampling/torch_sampler.py defines what they must be.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "workers.h"

namespace trtdisagg {

// How the token for one row is chosen. engine/sampling/native.py writes these, field by field.
struct SampleRow {
    uint64_t seed;
    int64_t choice;
    int64_t position;
    const int32_t* mask;  // bit i of word w: token 32 w + i may come; null: any may
    const int32_t* banned_ids;
    const int32_t* bias_ids;
    const float* biases;
    const int32_t* seen_ids;     // the tokens of prompt and output, each once
    const int32_t* seen_counts;  // how often each is in the output
    double top_p;                // 1: all
    double presence_penalty;
    double frequency_penalty;
    float repetition_penalty;
    float inverse_temperature;  // 0: greedy
    float min_scaled;           // what min_p leaves
    int32_t top_k;              // 0: all
    int32_t num_mask_words;
    int32_t num_banned;
    int32_t num_biases;
    int32_t num_seen;
    int32_t num_logprobs;  // so many tokens beside the chosen one; -1: none at all
    int32_t unused;

    bool has_edits() const { return mask || num_banned || num_biases || num_seen; }
};

// A log probability of a row's token and of its most probable ones, best first.
struct Logprobs {
    double* chosen;
    int32_t* top_ids;
    double* top;
    int32_t* num_top;
};

class Sampler {
public:
    Sampler(std::shared_ptr<Workers> workers, const std::string& isa);

    // logits is [num_rows][vocab]. A token is -1 where there is none. `out` has an entry, or `max_top`, for each row.
    void sample(const float* logits, int vocab, const SampleRow* rows, int num_rows, int32_t* tokens, Logprobs out,
                int max_top);

    // The log probabilities of tokens given, one a row. -infinity for a token that is not possible, NaN for all of a
    // row that is not numbers.
    void logprobs(const float* logits, int vocab, const int32_t* tokens, int num_rows, Logprobs out, int num_top);

private:
    template <typename Body>
    void for_rows(int num_rows, int vocab, const Body& body);

    const std::shared_ptr<Workers> workers_;
    const SamplingKernels& kernels_;
};

}  // namespace trtdisagg
