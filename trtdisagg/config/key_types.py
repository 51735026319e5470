"""Types of values in the cluster file, and what all its sections are."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trtdisagg.config import sizes

Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Size = CountOrZero | Annotated[str, msgspec.Meta(pattern=sizes.PATTERN)]
Backend = Literal["DEFAULT", "NIXL", "UCX", "MPI", "LOCAL"]


class Section(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A mapping in the file; unknown keys are errors."""
