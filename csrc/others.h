// The other ranks of a pipeline stage, as the decoder of one of them asks them (engine/division.py has how they divide).

#pragma once

#include <functional>

namespace trtdisagg {

// Rows in the order of the ranks, each its own.
struct Rows {
    int own;
    int start;  // the first of our own among all
    int all;
};

// Each of these is called by all ranks of the stage, on the thread that runs the step, while the other threads rest.
struct Others {
    // x [num_rows][width] becomes its sum over the ranks. Empty: there are no others.
    std::function<void(float* x, int num_rows)> add_up;
    // all [rows.all][width] becomes what the ranks have in `own` [rows.own][width]. Empty: all ranks compute all rows,
    // and divide heads and MLPs. Otherwise they divide the rows, and only the experts. `wanted_only`: the last layer.
    std::function<void(const float* own, float* all, const Rows& rows, bool wanted_only)> gather;

    bool divide_heads() const { return add_up && !gather; }
};

}  // namespace trtdisagg
