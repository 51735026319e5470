// A decoder as a value: engine/models/decoder.py, as C++ sees it. It may be one rank's share.

#pragma once

#include <memory>
#include <variant>
#include <vector>

#include "matrix.h"
#include "rowwise.h"

namespace trtdisagg {

using MatrixPointer = std::shared_ptr<const Matrix>;

struct Mlp {
    MatrixPointer up;  // gated: gate and up, one behind the other
    MatrixPointer down;
    Activation activation;
    bool is_gated;
};

struct Experts {
    MatrixPointer router;
    std::vector<Mlp> experts;  // those of this rank
    int first;                 // which of the router's results the first of them has
    int num_active;
    bool renormalize;
};

struct Layer {
    Norm input_norm;
    MatrixPointer qkv;
    Norm q_norm;
    Norm k_norm;
    const float* cosines;  // [max_positions][head_dim / 2], or null
    const float* sines;
    int window;
    MatrixPointer o;
    Norm post_attention_norm;
    Norm mlp_norm;
    std::variant<Mlp, Experts> mlp;
    Norm post_mlp_norm;
};

struct Model {
    int vocab_size;   // of the whole model
    int first_token;  // which the first row of embedding and lm_head is for
    bool has_embedding;  // otherwise a step begins with the hidden states that the stage before gives
    int num_embedded;    // rows of the embedding
    // One of three: [num_embedded][width] of either type, or none, and the tied lm_head is asked.
    const uint16_t* embedding_bf16;
    const float* embedding_f32;
    float embedding_scale;
    const float* positions;  // [max_positions][width], or null
    int max_positions;
    std::vector<Layer> layers;
    Norm norm;  // without a weight, as lm_head is null: a step ends with the hidden states, for the next stage
    MatrixPointer lm_head;
    float logit_softcap;  // 0: none
};

}  // namespace trtdisagg
