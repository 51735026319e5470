// Tensors between the ranks of a server on one host, through memory that all of them have mapped.
//
//     | ended |   rank 0: laid down | sent | taken | stage: 2 pieces | channel: 2 pieces |   rank 1: ...
//
// Within a stage a rank lays a piece down, counts that, and waits until the others have done so; then all read all of
// them. It may overwrite a piece two rounds later: by then everybody has laid down the next one, and so has read this.
// Between stages a rank writes a piece into its channel once the one before the last was taken.
//
// Who waits looks out for a moment and then sleeps in the kernel on the count it waits for. A rank that is gone never
// counts; whoever knows that calls `end`, and all waits end with an exception.

#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace trtdisagg {

class SharedRanks {
public:
    // `fd`: of a file of `num_bytes(num_ranks)` zeros, which all ranks map. The ranks of a stage are `tp_size` that follow
    // each other. A wait of `timeout_s` is an error. Throws std::runtime_error.
    SharedRanks(int fd, int num_ranks, int tp_size, int rank, double timeout_s);
    ~SharedRanks();
    SharedRanks(const SharedRanks&) = delete;
    SharedRanks& operator=(const SharedRanks&) = delete;

    static size_t num_bytes(int num_ranks);

    // x becomes its sum over the ranks of the stage, summed in their order: equal to the bit on all of them.
    void add_up(float* x, size_t count);
    void add_up_bf16(uint16_t* x, size_t count);  // summed in float32, rounded to the nearest even at the end

    // all: what each rank of the stage has, `bytes[tp_rank]` of it, one behind the other.
    void gather(const char* own, char* all, const std::vector<size_t>& bytes);

    void send(const char* data, size_t size);
    void receive(int from, char* data, size_t size);

    // All waits of all ranks end with an exception, from now on.
    void end();

private:
    struct Count;
    struct Rank;
    struct Memory;

    template <typename Sum>
    void add_up_pieces(char* x, size_t size, const Sum& sum);
    void lay_down(const char* data, size_t size);
    const char* laid_down(int tp_rank) const;
    void wait(Count& count, uint32_t at_least);
    static void add_one(Count& count);

    Memory* memory_;
    Rank* ranks_;
    size_t mapped_;
    int num_ranks_, tp_size_, rank_, first_;
    double timeout_s_;
    uint32_t round_ = 0;
};

}  // namespace trtdisagg
