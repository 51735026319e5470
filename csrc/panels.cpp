#include "panels.h"

#include <algorithm>
#include <cstring>

namespace trtdisagg {

namespace {

// All types are rearranged as words of 4 bytes: a step takes one from each row.
//
// `panel` has room for kPanel rows; what is left of a row behind its last word, an odd bfloat16, goes behind the words.
void pack(const char* rows, int num_rows, int64_t row_bytes, uint32_t* panel) {
    const int64_t num_words = row_bytes / 4, rest = row_bytes % 4;
    for (int64_t word = 0; word < num_words; ++word)
        for (int row = 0; row < num_rows; ++row)
            std::memcpy(panel + word * kPanel + row, rows + row * row_bytes + word * 4, 4);
    char* tail = reinterpret_cast<char*>(panel + num_words * kPanel);
    for (int row = 0; row < num_rows; ++row)
        std::memcpy(tail + row * rest, rows + row * row_bytes + num_words * 4, rest);
}

// The bytes of a word in the order 0 2 1 3.
void swap_middle_bytes(uint32_t* words, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
        words[i] = (words[i] & 0xff0000ffu) | (words[i] & 0xff00u) << 8 | (words[i] & 0xff0000u) >> 8;
}

// Rearranges all full panels in place and gives the one that is not full, padded with zeros.
std::vector<uint32_t> pack_all(char* rows, int num_rows, int64_t row_bytes, bool is_int8) {
    const int64_t panel_bytes = row_bytes * kPanel;
    std::vector<uint32_t> panel(panel_bytes / 4);
    for (; num_rows >= kPanel; num_rows -= kPanel, rows += panel_bytes) {
        pack(rows, kPanel, row_bytes, panel.data());
        if (is_int8) swap_middle_bytes(panel.data(), panel.size());
        std::memcpy(rows, panel.data(), panel_bytes);
    }
    if (num_rows == 0) return {};
    std::fill(panel.begin(), panel.end(), 0);
    pack(rows, num_rows, row_bytes, panel.data());
    if (is_int8) swap_middle_bytes(panel.data(), panel.size());
    return panel;
}

float to_float(uint16_t bf16) {
    const uint32_t bits = uint32_t(bf16) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <typename T>
T read(const void* panel, int64_t at) {
    return static_cast<const T*>(panel)[at];
}

}  // namespace

int bytes_of(WeightType type) { return type == WeightType::f32 ? 4 : type == WeightType::bf16 ? 2 : 1; }

PackedWeight::PackedWeight(void* weight, WeightType type, float* scales, int group, int num_outputs, int num_inputs)
    : weight_(weight), scales_(scales), type_(type), group_(group), num_outputs_(num_outputs), num_inputs_(num_inputs) {
    const int64_t row_bytes = int64_t(num_inputs) * bytes_of(type);
    last_ = pack_all(static_cast<char*>(weight), num_outputs, row_bytes, type == WeightType::int8);
    if (scales != nullptr)
        last_scales_ = pack_all(reinterpret_cast<char*>(scales), num_outputs, int64_t(num_inputs) / group * 4, false);
}

Panels PackedWeight::panels() const {
    return {weight_, last_.data(), scales_, reinterpret_cast<const float*>(last_scales_.data())};
}

const void* PackedWeight::panel_of(int output) const {
    const int first = output / kPanel * kPanel;
    if (first + kPanel > num_outputs_) return last_.data();
    return static_cast<const char*>(weight_) + int64_t(first) * num_inputs_ * bytes_of(type_);
}

const float* PackedWeight::scales_of(int output) const {
    const int first = output / kPanel * kPanel;
    if (first + kPanel > num_outputs_) return reinterpret_cast<const float*>(last_scales_.data());
    return scales_ + int64_t(first) * (num_inputs_ / group_);
}

void PackedWeight::row(int output, float* out) const {
    const void* panel = panel_of(output);
    const int within = output % kPanel, per_word = 4 / bytes_of(type_), num_words = num_inputs_ / per_word;
    for (int i = 0; i < num_inputs_; ++i) {
        const int word = i / per_word, part = i % per_word;
        const int64_t first = int64_t(word) * kPanel * per_word;
        const int64_t at = word < num_words ? first + within * per_word + part : first + within;
        if (type_ == WeightType::f32)
            out[i] = read<float>(panel, at);
        else if (type_ == WeightType::bf16)
            out[i] = to_float(read<uint16_t>(panel, at));
        else  // parts 1 and 2 are swapped
            out[i] = read<int8_t>(panel, part == 1 ? at + 1 : part == 2 ? at - 1 : at) *
                     scales_of(output)[int64_t(i / group_) * kPanel + within];
    }
}

}  // namespace trtdisagg
