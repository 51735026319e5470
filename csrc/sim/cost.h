// How long a step takes: by what was measured, and how what lies between is told, is Python's (bench/advise/cost.py).
#pragma once

#include <cstdint>
#include <vector>

namespace trtdisagg::sim {

struct StepCost {
    std::vector<double> decode_s;   // [sequences that generate], without attention
    std::vector<double> prefill_s;  // [tokens of prompts], without attention
    double kv_s = 0;                // for each token of KV that sequences which generate look at
    double pair_s = 0;              // for each pair of a prompt's token with itself or one before it
    double shared_s = 0;            // that a step with both saves: weights are read once

    double decode(int64_t num_sequences, int64_t num_kv_tokens) const {
        return num_sequences ? decode_s[num_sequences] + kv_s * static_cast<double>(num_kv_tokens) : 0;
    }

    double step(int64_t num_sequences, int64_t num_kv_tokens, int64_t num_prompt_tokens, double num_pairs) const {
        double seconds = decode(num_sequences, num_kv_tokens);
        if (!num_prompt_tokens) return seconds;
        seconds += prefill_s[num_prompt_tokens] + pair_s * num_pairs;
        return num_sequences ? seconds - shared_s : seconds;
    }
};

}  // namespace trtdisagg::sim
