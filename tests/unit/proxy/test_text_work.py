"""One job on a text: what a client's body may hold."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trtdisagg.errors import RequestError
from trtdisagg.protocol.texts import Prompt, Read
from trtdisagg.proxy.texts.work import work


def read(prompt: list[int]) -> Any:
    body = msgspec.json.encode({"model": "m", "prompt": prompt})
    nobody: Any = None  # a prompt of numbers needs no tokenizer
    return work(Read(number=1, model="m", chat=False, body=body, roots=[("m", 2)]), nobody)


@pytest.mark.parametrize("number", [-1, 2**32, 2**70])
def test_numbers_that_are_no_tokens_are_the_requests_fault(number: int) -> None:
    assert isinstance(read([1, 2]), Prompt)
    with pytest.raises(RequestError):
        read([1, number])
