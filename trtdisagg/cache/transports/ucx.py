"""KV by UCX with settings of our own: through NIXL's plugin, which brings its UCX along.

The alternative, the package ucxx, is another 350 MB for the same library.

On one host, for host memory: shared memory only (`TLS=shm`). Where that is not to be had it is said at once, rather
than found out as a link of TCP's speed. Elsewhere UCX chooses by itself, as it does for `nixl`. A user's UCX_*
variables come before all of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from trtdisagg.cache.transports.nixl import NixlTransport
from trtdisagg.protocol.memory import AgentMemory, UcxMemory


class UcxTransport(NixlTransport):
    """NIXL's plugin UCX, set for the medium."""

    memory_type: ClassVar[type[AgentMemory]] = UcxMemory

    def _parameters(self) -> Mapping[str, str]:
        parameters = super()._parameters()
        if self._one_host and self._kind == "DRAM":
            return {**parameters, "engine_config": "TLS=shm"}
        return parameters
