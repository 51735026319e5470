"""A hash names a whole beginning: model, salt and every token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trtdisagg.text.block_hash import HASH_BYTES, block_hash, extend_chain, root_hash

TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=20)


def chain(tokens: list[int], tokens_per_block: int = 4, root: bytes = b"r") -> list[bytes]:
    hashes: list[bytes] = []
    extend_chain(hashes, root, tokens, tokens_per_block, len(tokens))
    return hashes


def test_only_full_blocks_have_a_hash() -> None:
    assert [len(chain(list(range(n)))) for n in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]
    assert all(len(h) == HASH_BYTES for h in chain(list(range(8))))


@given(one=TOKENS, other=TOKENS)
def test_hashes_are_equal_exactly_as_far_as_the_tokens_are(one: list[int], other: list[int]) -> None:
    for i, (a, b) in enumerate(zip(chain(one), chain(other), strict=False)):
        assert (a == b) == (one[: 4 * i + 4] == other[: 4 * i + 4])


@given(tokens=TOKENS, cut=st.integers(0, 20))
def test_a_chain_grows_as_its_tokens_do(tokens: list[int], cut: int) -> None:
    hashes: list[bytes] = []
    for end in (min(cut, len(tokens)), len(tokens)):
        extend_chain(hashes, b"r", tokens, 4, end)
    assert hashes == chain(tokens)


def test_model_and_salt_are_part_of_every_name() -> None:
    roots = {root_hash("a"), root_hash("b"), root_hash("a", "s"), root_hash("a", ""), root_hash("as")}
    assert len(roots) == 5
    assert len({h for root in roots for h in chain(list(range(8)), root=root)}) == 10


def test_the_names_stay_what_they_are() -> None:
    """Servers of two versions meet in one cluster: a new way to make names would be a new wire version."""
    assert block_hash(root_hash("model"), [1, 2, 3]).hex() == "d42d9c98fdc84bd48d55a94e719468bc"
