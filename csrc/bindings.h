// Parts of what Python sees that have files of their own.

#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace trtdisagg {

void bind_ceilings(nanobind::module_& m);
void bind_decoder(nanobind::module_& m);
void bind_matrix(nanobind::module_& m);
void bind_sampler(nanobind::module_& m);
void bind_shared_ranks(nanobind::module_& m);

}  // namespace trtdisagg
