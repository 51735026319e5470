"""What can never be served is refused with the numbers; what just fits is served."""

from __future__ import annotations

import pytest
from helpers.engine import make_limits, make_request

from trtdisagg.engine.limits import num_kv_tokens
from trtdisagg.errors import ContextLengthError, RequestError

LIMITS = make_limits(max_seq_len=20, num_blocks=4, tokens_per_block=4, vocab_size=50)


def test_what_just_fits_is_served() -> None:
    LIMITS.check(make_request(1, num_prompt=10, max_tokens=7))  # 16 tokens: the 17th is never computed
    LIMITS.check(make_request(1, num_prompt=16, max_tokens=4, type="context_only"))


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "param", "numbers"),
    [
        (10, 11, "max_tokens", ["10", "11", "21", "at most 20"]),
        (20, 1, "prompt", ["20", "21", "at most 20"]),
        (10, 8, "max_tokens", ["17", "16", "4 blocks of 4"]),
        (17, 1, "prompt", ["17", "16", "4 blocks of 4"]),
    ],
)
def test_what_is_too_long_is_refused_with_the_numbers(
    num_prompt: int, max_tokens: int, param: str, numbers: list[str]
) -> None:
    with pytest.raises(ContextLengthError) as refused:
        LIMITS.check(make_request(1, num_prompt, max_tokens))
    assert all(n in refused.value.message for n in numbers)
    assert refused.value.param == param


def test_what_is_wrong_in_itself_is_refused() -> None:
    with pytest.raises(RequestError, match="empty"):
        LIMITS.check(make_request(1, num_prompt=0))
    with pytest.raises(RequestError, match="max_tokens is 0"):
        LIMITS.check(make_request(1, max_tokens=0))


@pytest.mark.parametrize("token", [-1, 50, 10**12])
def test_a_token_outside_the_vocabulary_is_refused_wherever_it_stands(token: int) -> None:
    """It would fail the step, and with it everybody else's requests."""
    with pytest.raises(RequestError, match=f"Token {token} is not in the vocabulary"):
        LIMITS.check(make_request(1, output_token_ids=[1, token]))
    with pytest.raises(RequestError, match="vocabulary"):
        LIMITS.check(make_request(1, sampling={"stop_token_ids": frozenset({token})}))


def test_a_request_needs_the_kv_of_all_but_its_last_token() -> None:
    assert num_kv_tokens(make_request(1, num_prompt=5, max_tokens=1)) == 5
    assert num_kv_tokens(make_request(1, num_prompt=5, max_tokens=6)) == 10
    assert num_kv_tokens(make_request(1, num_prompt=5, max_tokens=6, output_token_ids=[1, 2])) == 10
    assert num_kv_tokens(make_request(1, num_prompt=5, max_tokens=6, type="context_only")) == 5
    assert num_kv_tokens(make_request(1, num_prompt=5, max_tokens=6, type="context_only", output_token_ids=[1])) == 6
