"""The runner over the real weights says what the reference says."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import oracle
from helpers.tiny_runner import drive

from trtdisagg.text.model_files import files_at
from trtdisagg.text.tokenizer import load_tokenizer

PROMPT = "The capital of France is"
ANSWER = " Paris.\n\nThe answer is: 2018-01-22 12:12:53.<|im_end|>"
EOS = 2


@pytest.mark.real_model
@pytest.mark.parametrize("tokens_per_block", [8, 32])
def test_greedy_answer_in_float32(tokens_per_block: int) -> None:
    path: Path = oracle.weights()
    tokenizer = load_tokenizer(files_at(path))
    prompt, answer = tokenizer.encode(PROMPT), []
    with drive(path, tokens_per_block=tokens_per_block) as driver:
        sequence, tokens = driver.add(), prompt
        while len(answer) < 50 and EOS not in answer:
            tokens = [int(driver.step((sequence, tokens)).argmax())]
            answer += tokens
    assert tokenizer.decode(answer, skip_special_tokens=False) == ANSWER
