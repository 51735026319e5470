"""Layouts that cannot be, and pairs that do not fit together, are refused by name."""

from __future__ import annotations

import msgspec
import pytest
from helpers.layouts import layout

from trtdisagg.cache.layout import check_compatible, check_layout
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (layout(2, num_kv_heads=3), "of 3 KV heads and tensor_parallel_size 2 neither divides the other"),
        (layout(3), "of 8 KV heads and tensor_parallel_size 3 neither divides the other"),
        (layout(pp=(2, 3)), r"pp_partition \[2, 3\] does not divide 6 layers"),
        (layout(pp=(6, 0)), r"pp_partition \[6, 0\] does not divide 6 layers"),
        (layout(0), "cannot be like this"),
        (layout(tokens_per_block=0), "cannot be like this"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(wrong: KvLayout, words: str) -> None:
    with pytest.raises(HandoverError, match=words):
        check_layout(wrong)


def test_other_divisions_and_block_sizes_fit_together() -> None:
    check_compatible(layout(), layout(2, pp=(3, 3), tokens_per_block=128))


def test_each_field_that_differs_is_named() -> None:
    theirs = msgspec.structs.replace(layout(), model="n", dtype="bfloat16", num_layers=1, num_kv_heads=1, head_dim=4)
    with pytest.raises(HandoverError) as caught:
        check_compatible(layout(), theirs)
    for words in (
        "model is m here and n there",
        "dtype is float32 here and bfloat16 there",
        "num_layers is 6 here and 1 there",
        "num_kv_heads is 8 here and 1 there",
        "head_dim is 2 here and 4 there",
    ):
        assert words in caught.value.message
