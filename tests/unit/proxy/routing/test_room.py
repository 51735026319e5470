"""Whether a generation server has room for one more."""

from __future__ import annotations

from trtdisagg.protocol.control import Member
from trtdisagg.proxy.routing.ask import Ask, Load, View
from trtdisagg.proxy.routing.room import has_room

SERVER = Member(
    name="g",
    role="generation",
    model="m",
    url="h:1",
    max_batch_size=4,
    num_blocks=10,
    tokens_per_block=100,
    max_seq_len=900,
)
LIMITLESS = Member(name="g", role="generation", model="m", url="h:1")


def room(load: Load, server: Member = SERVER, *, match: int | None = None, **fields: int) -> bool:
    seen = View(lambda _: load, lambda *_: match, kv_overcommit=2.0)
    return has_room(server, Ask(model="m", **fields), seen)  # type: ignore[arg-type]


def test_a_batch_and_a_few_that_wait_for_the_next() -> None:
    assert room(Load(4))
    assert not room(Load(5))


def test_of_several_answers_one_must_fit() -> None:
    assert room(Load(4), num_answers=30)
    assert not room(Load(5), num_answers=2)
    assert room(Load(1, 1100), num_answers=9, num_prompt_tokens=100, max_tokens=800)
    assert not room(Load(1, 1200), num_answers=9, num_prompt_tokens=100, max_tokens=800)


def test_the_kv_cache_is_promised_a_little_more_than_once() -> None:
    assert room(Load(1, 1200), num_prompt_tokens=700, max_tokens=100)
    assert not room(Load(1, 1200), num_prompt_tokens=700, max_tokens=101)
    assert room(Load(1, 1200), num_prompt_tokens=700, max_tokens=101, match=32)


def test_no_request_counts_as_more_than_a_server_would_take() -> None:
    assert room(Load(1, 1100), num_prompt_tokens=100, max_tokens=1_000_000)
    assert not room(Load(1, 1200), num_prompt_tokens=100, max_tokens=1_000_000)


def test_a_server_without_work_has_room_for_anything() -> None:
    assert room(Load(), num_prompt_tokens=5000)


def test_what_is_not_known_does_not_limit() -> None:
    assert room(Load(1000, 1_000_000), LIMITLESS, num_prompt_tokens=5000)
