"""How the tokens of an answer are chosen: a body's fields as `SamplingParams`. Pure.

Ranges of single fields are the types' (protocol/openai.py); here is what depends on the model, the server or another
field.
"""

from __future__ import annotations

import random

from trtdisagg.engine.request import SamplingParams
from trtdisagg.errors import RequestError
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest
from trtdisagg.protocol.spec import SamplingDefaults
from trtdisagg.text.tokenizer import Tokenizer

Wish = CompletionRequest | ChatRequest

MAX_BIASES, MAX_BAD_WORDS, MAX_BAD_WORD_CHARS = 1024, 256, 1000


def sampling_params(wish: Wish, max_tokens: int, defaults: SamplingDefaults, tokenizer: Tokenizer) -> SamplingParams:
    """
    :raises RequestError: naming the field that is wrong.
    """
    min_tokens = wish.min_tokens or 0
    if min_tokens > max_tokens:
        raise RequestError(f"`min_tokens` is {min_tokens}, more than max_tokens, {max_tokens}", param="min_tokens")
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=defaults.temperature if wish.temperature is None else wish.temperature,
        top_k=_top_k(wish, defaults),
        top_p=defaults.top_p if wish.top_p is None else wish.top_p,
        min_p=wish.min_p or 0.0,
        seed=random.getrandbits(63) if wish.seed is None else wish.seed,
        ignore_eos=wish.ignore_eos,
        stop_token_ids=frozenset(wish.stop_token_ids or ()),
        repetition_penalty=wish.repetition_penalty or 1.0,
        presence_penalty=wish.presence_penalty or 0.0,
        frequency_penalty=wish.frequency_penalty or 0.0,
        logit_bias=_logit_bias(wish) if wish.logit_bias else {},
        bad_words=_bad_words(wish.bad_words, tokenizer) if wish.bad_words else [],
        num_logprobs=_num_logprobs(wish),
        num_prompt_logprobs=_num_prompt_logprobs(wish),
    )


def num_shown_logprobs(wish: Wish) -> int | None:
    """So many alternatives are shown for each token of the text; None: the answer has no `logprobs`."""
    if isinstance(wish, CompletionRequest):
        return wish.logprobs
    if wish.top_logprobs and not wish.logprobs:
        raise RequestError("`top_logprobs` needs `logprobs: true`", param="top_logprobs")
    return (wish.top_logprobs or 0) if wish.logprobs else None


def num_generated(wish: Wish) -> int:
    """So many answers are generated to each prompt, of which `n` are given."""
    return max(wish.n or 1, wish.best_of or 1)


def _num_logprobs(wish: Wish) -> int | None:
    shown = num_shown_logprobs(wish)
    if shown is None and num_generated(wish) > (wish.n or 1):
        return 0  # the best are found by them
    return shown


def _num_prompt_logprobs(wish: Wish) -> int | None:
    echoed = wish.logprobs if isinstance(wish, CompletionRequest) and wish.echo else None
    wanted = [num for num in (echoed, wish.prompt_logprobs) if num is not None]
    return max(wanted, default=None)


def _top_k(wish: Wish, defaults: SamplingDefaults) -> int:
    top_k = defaults.top_k if wish.top_k is None else wish.top_k
    if top_k < -1:
        raise RequestError(f"`top_k` is {top_k}; 0 or -1 means all tokens", param="top_k")
    return max(top_k, 0)


def _logit_bias(wish: Wish) -> dict[int, float]:
    biases = wish.logit_bias or {}
    if len(biases) > MAX_BIASES:
        raise RequestError(f"`logit_bias` takes at most {MAX_BIASES} tokens", param="logit_bias")
    if wrong := next((key for key in biases if not (key.isascii() and key.isdigit())), None):
        raise RequestError(f"`logit_bias` has the key {wrong!r}; keys are token ids", param="logit_bias")
    return {int(key): bias for key, bias in biases.items()}


def _bad_words(words: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Each word as tokens, as it would begin a text and as it would stand behind a space."""
    if not all(words):
        raise RequestError("A bad word is empty", param="bad_words")
    if len(words) > MAX_BAD_WORDS or any(len(w) > MAX_BAD_WORD_CHARS for w in words):
        raise RequestError(
            f"`bad_words` takes at most {MAX_BAD_WORDS} words of at most {MAX_BAD_WORD_CHARS} characters",
            param="bad_words",
        )
    found: list[list[int]] = []
    for word in words:
        for text in (word, " " + word.lstrip()):
            tokens = tokenizer.encode(text, add_special_tokens=False)
            if tokens and tokens not in found:
                found.append(tokens)
    return found
