"""The prompts of a body as tokens, without holding the event loop up; how they are read is text/prompts.py's."""

from __future__ import annotations

import asyncio

from trtdisagg.protocol.openai import CompletionRequest
from trtdisagg.text.prompts import Tools, Wish, encode, prompts_of, split
from trtdisagg.text.tokenizer import Tokenizer

_LONG_TEXT = 4096
"""Characters from which tokenizing is worth a thread: the event loop goes on meanwhile."""


async def tokens_of(wish: Wish, tokenizer: Tokenizer, tools: Tools | None = None) -> list[list[int]]:
    """
    :param tools: that a chat's model is told of.
    :raises RequestError: when there is none, or they cannot be read.
    """
    prompts = prompts_of(wish, tokenizer, tools)
    if sum(len(p) for p in prompts if isinstance(p, str)) < _LONG_TEXT:
        return encode(wish, prompts, tokenizer)
    return await asyncio.to_thread(encode, wish, prompts, tokenizer)


def echoes_of(wish: CompletionRequest, prompts: list[list[int]], tokenizer: Tokenizer) -> list[str]:
    """What each prompt says: its own words where they were given and are used whole."""
    given = split(wish.prompt)
    if wish.truncate_prompt_tokens is not None or wish.prompt_token_ids is not None:
        given = list(prompts)
    skip = wish.skip_special_tokens
    return [p if isinstance(p, str) else tokenizer.decode(p, skip_special_tokens=skip) for p in given]
