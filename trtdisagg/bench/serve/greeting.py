"""The first words with an endpoint, before anything is measured: which model, and what it tells of tokens."""

from __future__ import annotations

import msgspec

from trtdisagg.bench.program import MeasureError
from trtdisagg.bench.serve.asked import Asked
from trtdisagg.bench.serve.bodies import PATHS, Bodies
from trtdisagg.bench.serve.client import Client, words_of
from trtdisagg.bench.serve.load import Load
from trtdisagg.bench.serve.outcome import Outcome
from trtdisagg.bench.serve.reception import message_of

_PROMPT = Asked(prompt="Hello", max_tokens=2)
_NEWS: tuple[dict[str, bool] | None, ...] = (
    {"include_usage": True, "continuous_usage_stats": True},
    {"include_usage": True},
    None,
)
"""What a stream may be asked to tell, the best first: the tokens of each chunk, those of the answer, nothing."""
_REFUSED = ("HTTP 400", "HTTP 422")
_FORBIDDEN = (401, 403)
_NO_KEY = "; --api-key-file has a client's key"


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


async def greet(client: Client, load: Load) -> tuple[str, Bodies]:
    """Ask something short.

    :returns: the model, and what makes the bodies of requests to it.
    :raises MeasureError: the endpoint does not answer.
    """
    model = load.model or await only_model(client, load.url)
    news = _NEWS if load.is_streamed and "stream_options" not in load.extra_body else (None,)
    outcomes = []
    for stream_options in news:
        bodies = Bodies(load, model, stream_options)
        outcome = Outcome(index=0, max_tokens=_PROMPT.max_tokens)
        await client.ask(
            PATHS[load.endpoint],
            bodies.encode(_PROMPT),
            outcome,
            is_streamed=load.is_streamed,
            timeout_s=load.timeout_s,
            leave_after=1 if load.is_streamed else None,
        )
        outcomes.append(outcome)
        if outcome.error is None:
            return model, bodies
        if outcome.error not in _REFUSED:
            break
    raise MeasureError(f"{load.url}{PATHS[load.endpoint]}: {_words(outcomes[-1])}{_way_out(load, outcomes[-1].error)}")


async def only_model(client: Client, url: str) -> str:
    """
    :raises MeasureError: the endpoint does not answer, or has none or several.
    """
    try:
        status, body = await client.page("/v1/models")
    except OSError as e:
        raise MeasureError(f"{url} does not answer: {words_of(e)}") from e
    if status != 200:
        way_out = _NO_KEY if status in _FORBIDDEN else "; name a model with --model"
        raise MeasureError(f"{url}/v1/models: HTTP {status}: {message_of(body)}{way_out}")
    try:
        names = [model.id for model in msgspec.json.decode(body, type=_Models).data]
    except msgspec.MsgspecError as e:
        raise MeasureError(f"{url}/v1/models is not a list of models ({e}); name one with --model") from e
    if not names:
        raise MeasureError(f"{url} has no model: it may still be starting")
    if len(names) > 1:
        raise MeasureError(f"{url} has the models {', '.join(sorted(names))}; name one with --model")
    return names[0]


def _way_out(load: Load, error: str | None) -> str:
    if error in [f"HTTP {status}" for status in _FORBIDDEN] and load.api_key is None:
        return _NO_KEY
    other = "chat" if load.endpoint == "completions" else "completions"
    return f"; there is --endpoint {other}" if error == "HTTP 404" else ""


def _words(outcome: Outcome) -> str:
    return f"{outcome.error}: {outcome.message}" if outcome.message else str(outcome.error)
