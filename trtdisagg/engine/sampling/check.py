"""Which sampling parameters have a meaning: what is let through never fails a step, in which others wait, too."""

from __future__ import annotations

from collections.abc import Iterable

from trtdisagg.engine.request import SamplingParams
from trtdisagg.errors import RequestError

_MOST = 1e4
"""Far beyond any logit, and far from where float32 ends."""
_RANGES = {
    "temperature": (0, float("inf")),
    "top_k": (0, 2**31 - 1),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repetition_penalty": (1 / _MOST, _MOST),
    "presence_penalty": (-_MOST, _MOST),
    "frequency_penalty": (-_MOST, _MOST),
}


def check_sampling(sampling: SamplingParams, vocab_size: int) -> None:
    """
    :raises RequestError: naming the parameter that is out of its range, or the token that is not in the vocabulary.
    """
    for name, (least, most) in _RANGES.items():
        _check_range(name, getattr(sampling, name), least, most)
    for name in ("num_logprobs", "num_prompt_logprobs"):
        if (num := getattr(sampling, name)) is not None:
            _check_range(name, num, 0, vocab_size)
    for bias in sampling.logit_bias.values():
        _check_range("logit_bias", bias, -_MOST, _MOST)
    _check_ids("logit_bias", sampling.logit_bias, vocab_size)
    for word in sampling.bad_words:
        _check_ids("bad_words", word, vocab_size)
    _check_ids("stop_token_ids", sampling.stop_token_ids, vocab_size)


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # nor is NaN
        raise RequestError(f"{name} is {value}, not from {least:g} to {most:g}", param=name)


def _check_ids(name: str, ids: Iterable[int], vocab_size: int) -> None:
    for token in ids:
        if not 0 <= token < vocab_size:
            raise RequestError(f"Token {token} is not in the vocabulary (0 to {vocab_size - 1})", param=name)
