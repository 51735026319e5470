"""What one prompt of a file looks like, in each form."""

from __future__ import annotations

from typing import Any

import msgspec

from trtdisagg.bench.serve.asked import Message
from trtdisagg.bench.workloads.scripted import Prompt

PROMPT_KEYS = ("prompt", "messages", "text_input", "text", "input_ids")
"""Exactly one of them. `prompt` is text or token ids, `messages` a chat; others are said by other programs."""
LENGTH_KEYS = ("output_len", "output_tokens", "output_length", "max_tokens")
"""How long the answer is to be; one of them at most. What else stands there is not about the prompt and is left."""

_ASKS = ("human", "user")
_ANSWERS = ("gpt", "chatgpt", "assistant", "bard", "bing")


class FormError(Exception):
    """Something is not as its form wants it; says what, not where."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation of a file."""

    prompt: Prompt
    system: str | None = None
    """Said before the prompt, where that is text."""
    answer: str | None = None
    """That is recorded there; only its length is used."""
    num_output_tokens: int | None = None
    later: tuple[tuple[str, str | None], ...] = ()
    """Further turns of the user, and the answers recorded to them."""


# --- objects --------------------------------------------------------------------------------------------------------


def read_object(item: Any) -> Entry:
    """A prompt, under one of `PROMPT_KEYS`."""
    if not isinstance(item, dict):
        raise FormError(f"an object with {', '.join(PROMPT_KEYS)} is wanted, not {_kind(item)}")
    found = [key for key in PROMPT_KEYS if key in item]
    if len(found) != 1:
        raise FormError(f"exactly one of {', '.join(PROMPT_KEYS)} is wanted; there is {' and '.join(found) or 'none'}")
    num_output_tokens = _length(item)
    key, value = found[0], item[found[0]]
    if key == "messages":
        *messages, last = _messages(value)
        if last.role in _ANSWERS and messages:
            return Entry(prompt=tuple(messages), answer=last.content, num_output_tokens=num_output_tokens)
        return Entry(prompt=(*messages, last), num_output_tokens=num_output_tokens)
    return Entry(prompt=_prompt(key, value), num_output_tokens=num_output_tokens)


def _prompt(key: str, value: Any) -> str | tuple[int, ...]:
    if isinstance(value, str) and value and key != "input_ids":
        return value
    if isinstance(value, list) and value and all(type(t) is int and t >= 0 for t in value):
        return tuple(value)
    raise FormError(f"{key} is to be {'token ids' if key == 'input_ids' else 'text'}, not {_kind(value)}")


def _length(item: dict[str, Any]) -> int | None:
    found = [key for key in LENGTH_KEYS if item.get(key) is not None]
    if len(found) > 1:
        raise FormError(f"{' and '.join(found)} say the same; one is enough")
    value = item[found[0]] if found else None
    if value is not None and (type(value) is not int or value < 1):
        raise FormError(f"{found[0]} is to be a number of tokens, at least 1, not {value!r}")
    return value


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise FormError(f"messages is to be a list of messages, not {_kind(value)}")
    return [_message(m) for m in value]


def _message(value: Any) -> Message:
    match value:
        case {"role": str(role), "content": str(content)}:
            return Message(role, content)
        case {"role": str(role), "content": [*parts]}:
            return Message(role, "".join(_part(p) for p in parts))
    raise FormError("a message has a role and a content")


def _part(part: Any) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
    raise FormError("a message has a part that is no text")


# --- ShareGPT -------------------------------------------------------------------------------------------------------


def read_sharegpt(item: Any) -> Entry | None:
    """A conversation without what answers before anybody asks; None: nobody does (the file has hundreds of them)."""
    match item:
        case {"conversations": [*said]}:
            return _conversation([_said(s) for s in said])
    raise FormError("an object with conversations, a list, is wanted")


def _said(value: Any) -> tuple[str, str]:
    match value:
        case {"from": str(who), "value": str(words)}:
            return who, words
    raise FormError("of what is said, `from` and `value` are wanted")


def _conversation(said: list[tuple[str, str]]) -> Entry | None:
    system = [words for who, words in said if who == "system"][:1]
    turns: list[tuple[str, str | None]] = []
    for who, words in said:
        if who in _ASKS and words.strip():
            turns.append((words, None))
        elif who in _ANSWERS and turns and turns[-1][1] is None:
            turns[-1] = (turns[-1][0], words)
    if not turns:
        return None
    (first, answer), *later = turns
    return Entry(prompt=first, system=system[0] if system else None, answer=answer, later=tuple(later))


# --- benchmark_core_model -------------------------------------------------------------------------------------------


def read_core_model(item: Any) -> Entry:
    """Input and instruction are the prompt, in this order."""
    match item:
        case {"input": str(text), "instruction": str(instruction), "output": str(output)}:
            return Entry(prompt=f"{text} {instruction}", answer=output)
    raise FormError("an object with input, instruction and output is wanted, all of them text")


def _kind(value: Any) -> str:
    if value in ("", []):
        return "nothing"
    return {dict: "an object", list: "a list", str: "text", type(None): "null"}.get(type(value), repr(value))
