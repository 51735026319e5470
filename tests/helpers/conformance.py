"""Random requests over every feature of the API, and what two answers to one of them must have in common."""

from __future__ import annotations

import json
import random
from typing import Any

from helpers.http_face import parse_events
from helpers.streams import nearly, put_together

NUM_VOCABULARY = 261
WORDS = "the quick brown fox jumps over a lazy dog and then says hé 日本 again to all of them".split()  # noqa: SIM905
PERSON = {
    "type": "object",
    "properties": {"age": {"type": "integer"}, "name": {"type": "string", "maxLength": 5}},
    "required": ["age", "name"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "maximum": 9, "minimum": 0}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "What time it is."}}


class Wish:
    """One request: its route and its body."""

    def __init__(self, number: int, seed: int) -> None:
        self._random = random.Random(f"{seed}/{number}")
        self.chat = self._one_in(2)
        self.body: dict[str, Any] = {"model": "tiny", **(self._chat() if self.chat else self._completion())}
        self._sample()
        self._end()
        self._look()
        self._form()
        if self._one_in(20):
            self.body |= self._random.choice(MISTAKES)

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    def __repr__(self) -> str:
        return f"{self.path} {json.dumps(self.body)}"

    def _one_in(self, n: int) -> bool:
        return self._random.randrange(n) == 0

    def _text(self) -> str:
        return " ".join(self._random.choices(WORDS, k=self._random.randint(1, 30)))

    def _ids(self) -> list[int]:
        return [self._random.randrange(3, NUM_VOCABULARY) for _ in range(self._random.randint(1, 60))]

    # --- what is asked ----------------------------------------------------------------------------------------------

    def _completion(self) -> dict[str, Any]:
        prompt: Any = self._random.choice([self._text, self._ids])()
        if self._one_in(6):
            prompt = [self._random.choice([self._text, self._ids])() for _ in range(self._random.randint(1, 3))]
        fields: dict[str, Any] = {"prompt": prompt}
        if self._one_in(6):
            fields["echo"] = True
        if self._one_in(10):
            fields["truncate_prompt_tokens"] = self._random.randint(1, 20)
        return fields

    def _chat(self) -> dict[str, Any]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": self._text()}]
        if self._one_in(3):
            messages.insert(0, {"role": "system", "content": self._text()})
        if self._one_in(3):
            messages += [{"role": "assistant", "content": self._text()}, {"role": "user", "content": self._text()}]
        if self._one_in(5):
            messages[-1]["content"] = [{"type": "text", "text": self._text()}, {"type": "text", "text": "and"}]
        fields: dict[str, Any] = {"messages": messages}
        if self._one_in(3):
            fields["tools"] = [WEATHER, CLOCK][: self._random.randint(1, 2)]
            fields["tool_choice"] = self._random.choice(
                ["auto", "none", "required", {"type": "function", "function": {"name": "weather"}}]
            )
            if self._one_in(3):
                fields["parallel_tool_calls"] = False
        return fields

    # --- how it is answered -----------------------------------------------------------------------------------------

    def _sample(self) -> None:
        body, pick = self.body, self._random
        body["frequency_penalty"] = 2.0  # else a model as tiny as this one says one token over and over
        if self._one_in(2):
            body |= {"temperature": pick.choice([0.3, 1.0, 1.7]), "seed": pick.randrange(1 << 30)}
            for name, values in (("top_p", [0.5, 0.9]), ("top_k", [1, 5, 50]), ("min_p", [0.01, 0.2])):
                if self._one_in(3):
                    body[name] = pick.choice(values)
        else:
            body["temperature"] = 0
        if self._one_in(4):
            body["repetition_penalty"] = pick.choice([0.8, 1.3])
        if self._one_in(4):
            body["presence_penalty"] = pick.choice([-1, 1.5])
        if self._one_in(6):
            body["logit_bias"] = {str(pick.randrange(3, NUM_VOCABULARY)): pick.choice([-100, 2, 100])}
        if self._one_in(8):
            body["bad_words"] = [pick.choice(WORDS)[:2]]
        if self._one_in(4):
            body["n"] = pick.randint(2, 3)
        if self._one_in(12) and "n" not in body:
            body["best_of"] = 2

    def _end(self) -> None:
        body, pick = self.body, self._random
        body["max_tokens"] = pick.choice([1, 2, 3, 8, 20, 40])
        if self._one_in(3):
            body["stop"] = pick.choice(["e", ["ab", "q"], "the", ["\n", " ", "x"]])
            body["include_stop_str_in_output"] = self._one_in(3)
        if self._one_in(5):
            body["stop_token_ids"] = pick.sample(range(3, NUM_VOCABULARY), 40)
        if self._one_in(3):
            body["ignore_eos"] = True
        if self._one_in(5):
            body["min_tokens"] = min(4, body["max_tokens"])

    def _look(self) -> None:
        body, pick = self.body, self._random
        if self._one_in(3):
            body |= (
                {"logprobs": True, "top_logprobs": pick.choice([0, 3])}
                if self.chat
                else {"logprobs": pick.choice([0, 2])}
            )
        for name, chance in (("return_token_ids", 5), ("skip_special_tokens", 8), ("detokenize", 12)):
            if self._one_in(chance):
                body[name] = name == "return_token_ids"
        if self._one_in(8):
            body["cache_salt"] = pick.choice(["a", "b"])
        if self._one_in(2) and "best_of" not in body:
            body["stream"] = True
            options = {"include_usage": True, "continuous_usage_stats": self._one_in(3)}
            body["stream_options"] = options
        elif self._one_in(8):
            body["prompt_logprobs"] = 1

    def _form(self) -> None:
        if not self._one_in(5) or "tools" in self.body:
            return
        schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
        self.body |= self._random.choice(
            [
                {"response_format": schema},
                {"response_format": {"type": "json_object"}},
                {"guided_regex": "(yes|no|[0-9]{3})!"},
                {"guided_choice": ["red", "green", "blue"]},
                {"guided_json": PERSON},
                {"guided_grammar": 'start: "a" ("b" | "c")+ "d"'},
            ]
        )


MISTAKES: list[dict[str, Any]] = [
    {"temperature": -1},
    {"max_tokens": 100_000},
    {"top_p": 2},
    {"wat": 1},
    {"suffix": "x"},
    {"stop_token_ids": "x"},
    {"n": 0},
    {"logit_bias": {"x": 1}},
    {"guided_regex": "("},
    {"use_beam_search": True},
]


def comparable(status: int, text: str, *, stream: bool) -> Any:
    """An answer without what differs between two answers to the same request. Whether an error that the first tokens
    bring comes as a status or as an event, and what was said before it, is a matter of timing."""
    if status != 200:
        return json.loads(text)
    events = parse_events(text) if stream else []
    if stream and "error" in events[-1]:
        return events[-1]
    body = put_together(events) if stream else json.loads(text)
    choices = sorted(body["choices"], key=lambda choice: choice["index"])
    usage = {k: v for k, v in body["usage"].items() if k != "prompt_tokens_details"}
    kept = {k: body[k] for k in ("object", "model", "prompt_logprobs", "prompt_token_ids") if k in body}
    return nearly({**kept, "choices": [_without_ids(choice) for choice in choices], "usage": usage})


def _without_ids(choice: dict[str, Any]) -> dict[str, Any]:
    for call in choice.get("message", {}).get("tool_calls") or ():
        call.pop("id")
    return choice
