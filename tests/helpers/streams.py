"""What a client puts together of a stream: the same as the whole answer."""

from __future__ import annotations

import math
from typing import Any


def put_together(events: list[Any]) -> dict[str, Any]:
    """The whole answer that the events of a stream make, the last of them `[DONE]`."""
    *chunks, end = events
    assert end == "data: [DONE]"
    whole = {**chunks[0], "choices": [], "object": chunks[0]["object"].removesuffix(".chunk")}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        assert (chunk["id"], chunk["created"], chunk["model"]) == (whole["id"], whole["created"], whole["model"])
        whole["usage"] = chunk.get("usage")
        for part in chunk["choices"]:
            index = part["index"]
            assert choices.get(index, {}).get("finish_reason") is None, "something came behind the end"
            choices[index] = _add(choices[index], part) if index in choices else _first(part)
    whole["choices"] = [choices[i] for i in sorted(choices)]
    return whole


def _first(part: dict[str, Any]) -> dict[str, Any]:
    if "delta" not in part:
        return part
    delta = {"role": "assistant", "content": "", **part["delta"]}
    return {**{k: v for k, v in part.items() if k != "delta"}, "message": delta}


def _add(whole: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    added = {**whole, "finish_reason": part["finish_reason"]}
    if "text" in part:
        added["text"] += part["text"]
        added["stop_reason"] = part["stop_reason"]
    else:
        assert "role" not in part["delta"], "said twice who speaks"
        added["message"] = _more_said(whole["message"], part["delta"])
    added["logprobs"] = _join(whole["logprobs"], part["logprobs"])
    if "token_ids" in part:
        added["token_ids"] = whole.get("token_ids", []) + part["token_ids"]
    return added


def _more_said(message: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    said = {**message, "content": message["content"] + delta.get("content", "")}
    for call in delta.get("tool_calls", []):
        said["tool_calls"] = _more_called(said.get("tool_calls", []), call)
    return said


def _more_called(calls: list[dict[str, Any]], delta: dict[str, Any]) -> list[dict[str, Any]]:
    if delta["index"] == len(calls):
        return [*calls, delta]
    *others, last = calls
    arguments = last["function"]["arguments"] + delta["function"]["arguments"]
    return [*others, {**last, "function": {**last["function"], "arguments": arguments}}]


def _join(before: dict[str, Any] | None, more: dict[str, Any] | None) -> dict[str, Any] | None:
    if before is None or more is None:
        return before or more
    return {name: (before[name] or []) + (more[name] or []) or before[name] for name in before}


class _Near(float):
    """Other blocks are computed in other pieces, which moves the last bits of a logarithm."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and math.isclose(self, other, rel_tol=0, abs_tol=1e-3)

    def __ne__(self, other: object) -> bool:
        return not self == other


def nearly(value: Any) -> Any:
    """The same, equal to what differs from it in the last bits of its numbers."""
    match value:
        case float():
            return _Near(value)
        case list():
            return [nearly(v) for v in value]
        case dict():
            return {k: nearly(v) for k, v in value.items()}
    return value
