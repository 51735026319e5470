// Computes whole steps of a decoder: weights and pool are bound once, a step passes indices only.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model.h"
#include "others.h"
#include "paged_attention.h"
#include "workers.h"

namespace trtdisagg {

// Floats that are there when they are needed, and not cleared.
class Floats {
public:
    float* room(int64_t count) {
        if (count > size_) {
            data_.reset();
            data_.reset(new float[count]);
            size_ = count;
        }
        return data_.get();
    }

private:
    std::unique_ptr<float[]> data_;
    int64_t size_ = 0;
};

struct Copy {
    int64_t from;
    int64_t to;
};

struct StepIndices {
    std::vector<int32_t> tokens;
    std::vector<Chunk> chunks;
    std::vector<int32_t> blocks;
    std::vector<Copy> copies;  // of whole blocks, before anything else
    Rows all_rows;             // of all ranks that divide the requests: their tokens
    Rows wanted_rows;          // and those that need logits
};

class Decoder {
public:
    // What the model points to, and `pool`, must outlive the object.
    // Throws std::invalid_argument when the parts do not fit together.
    Decoder(Model model, const AttentionShape& shape, char* pool, Others others, std::shared_ptr<Workers> workers,
            const std::string& isa);

    // Writes the KV of all chunks. `in` is what the stage before gives, [tokens][width], or null in the first stage;
    // `out` is [tokens][width] for the next, in the last logits, [sum of num_logits][own part of the vocabulary].
    // Throws std::invalid_argument, and computes nothing, when an index is out of bounds.
    void run(StepIndices step, const float* in, float* out);

    bool is_first() const { return model_.has_embedding; }
    bool is_last() const { return model_.lm_head != nullptr; }

private:
    void check_model() const;
    void check_step(const StepIndices& step) const;
    void copy_blocks(const std::vector<Copy>& copies);
    void begin(const StepIndices& step, const float* in);
    void embed(const StepIndices& step);
    void embed_token(int token, float* out) const;
    void add_positions(const StepIndices& step);
    void attend(int layer, int num_rows, bool wanted_only);
    void keep_wanted(const std::vector<Chunk>& chunks);
    void norm(const Norm& post, const Norm& norm, int num_rows, bool has_delta);
    void logits(float* out, int num_rows);
    void add_up(float* x, int num_rows);
    void mlp(const Mlp& mlp, const float* x, float* out, int num_rows);
    void mix(const Experts& experts, const Rows& rows, bool wanted_only);
    void experts(const Experts& experts, const float* x, float* out, int num_rows);
    void expert(const Mlp& mlp, const std::vector<int>& rows, const std::vector<float>& weights, const float* x,
                float* out);

    template <typename F>
    void share(int num_rows, double operations_per_row, const F& f);

    const Model model_;
    const std::shared_ptr<Workers> workers_;
    const RowwiseKernels& kernels_;
    PagedAttention attention_;
    const Others others_;
    char* const pool_;
    const int width_;

    Floats x_;         // [rows][width]: the sum of what all parts so far gave
    Floats delta_;     // [rows][width]: what the last part gave, still to be added
    Floats normed_;    // [rows][width]
    Floats qkv_;       // [rows][heads and KV heads][head_dim]
    Floats attended_;  // [rows][heads][head_dim]
    Floats inner_, activated_;             // of an MLP, for some rows
    Floats router_, expert_in_, expert_out_;  // of one expert
    Floats gathered_, mixed_;                 // [rows of all ranks][width]: what experts are given, and give
};

}  // namespace trtdisagg
