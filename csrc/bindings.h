// Parts of what Python sees that have files of their own.

#pragma once

#include <nanobind/nanobind.h>

namespace trtdisagg {

void bind_sampler(nanobind::module_& m);

}  // namespace trtdisagg
