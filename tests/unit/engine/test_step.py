"""Steps as other ranks are sent them."""

from __future__ import annotations

import msgspec

from trtdisagg.engine.step import Chunk, Copy, Step


def test_a_step_goes_to_other_ranks_as_it_is() -> None:
    step = Step([Chunk([5, 6], 3, [9, 2], 1, dp_rank=1), Chunk([7], 0, [4], 0)], [Copy(1, 2, dp_rank=3)])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(step), type=Step) == step
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(step))[0] == [[[5, 6], 3, [9, 2], 1, 1], [[7], 0, [4], 0, 0]]
