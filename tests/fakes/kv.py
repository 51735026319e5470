"""What a fake engine has in its cache: all full blocks of the prompts it was given, told as the real one does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fakes.tiny_http import Request

    from trtdisagg.protocol.spec import EngineSpec

HEARTBEAT_S = 1.0


class Kv:
    """
    :ivar num_listeners: of those who follow it now.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self._spec = spec
        self._hashes: dict[bytes, None] = {}
        self._listeners: list[asyncio.Queue[tuple[bytes, bytes]]] = []

    @property
    def num_listeners(self) -> int:
        return len(self._listeners)

    @property
    def num_blocks(self) -> int:
        return len(self._hashes)

    def compute(self, prompt: tuple[int, ...]) -> None:
        if not self._listeners and len(prompt) < self._spec.tokens_per_block:
            return
        from trtdisagg.text.block_hash import extend_chain, root_hash

        chain: list[bytes] = []
        extend_chain(chain, root_hash(self._spec.model), prompt, self._spec.tokens_per_block, len(prompt))
        new = [h for h in chain if h not in self._hashes]
        self._hashes.update(dict.fromkeys(new))
        self._tell(b"".join(new), b"")

    def evict(self) -> None:
        """Everything."""
        gone, self._hashes = b"".join(self._hashes), {}
        self._tell(b"", gone)

    def _tell(self, stored: bytes, removed: bytes) -> None:
        for listener in self._listeners:
            listener.put_nowait((stored, removed))

    async def follow(self, request: Request) -> None:
        """A stream that ends with its listener."""
        import msgspec

        from trtdisagg.protocol.frames import frame
        from trtdisagg.protocol.kv_events import KvChange, KvSnapshot

        changes: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
        snapshot = KvSnapshot(
            incarnation=self._spec.incarnation,
            tokens_per_block=self._spec.tokens_per_block,
            root_model=self._spec.model,
            sequence=0,
            hashes=b"".join(self._hashes),
        )
        self._listeners.append(changes)
        try:
            request.connection.begin_stream("application/msgpack")
            await request.connection.write(frame(msgspec.msgpack.encode(snapshot)))
            sequence = 0
            while True:
                stored, removed = await _next(changes)
                sequence += 1
                change = KvChange(sequence=sequence, stored=stored, removed=removed)
                await request.connection.write(frame(msgspec.msgpack.encode(change)))
        finally:
            self._listeners.remove(changes)


async def _next(changes: asyncio.Queue[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    try:
        return await asyncio.wait_for(changes.get(), HEARTBEAT_S)
    except TimeoutError:
        return b"", b""
