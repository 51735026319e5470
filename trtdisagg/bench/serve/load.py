"""A load: to whom, how many at once or how often, and what counts as good. What is asked is the workload's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from trtdisagg.errors import ConfigError

Endpoint = Literal["completions", "chat"]
GOALS = ("ttft", "tpot", "itl", "e2el")
"""The times that `goodput` may bound."""
_OURS = {"model": "--model", "stream": "--no-stream", "max_tokens": "--osl", "prompt": "", "messages": ""}
"""Fields of a body that others decide."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `run_load` needs beside the workload.

    :raises ConfigError: when it contradicts itself.
    """

    url: str
    """`http://host:port`, or https; what is before /v1."""
    model: str | None = None
    """None: the only one of /v1/models."""
    endpoint: Endpoint = "completions"
    num_prompts: int = 100
    """Conversations, of one request each where the workload has no turns."""
    num_warmups: int = 0
    """Of other prompts, before; in none of the figures."""
    concurrency: int | None = None
    """Conversations at once, at most; None: as many as arrive."""
    request_rate: float = math.inf
    """Conversations that begin in a second."""
    ramp_to: float | None = None
    """The rate goes evenly in time from `request_rate` to this one, which the last arrival meets."""
    arrivals: Literal["gamma", "constant"] = "gamma"
    burstiness: float = 1.0
    """Shape of the gamma distribution of gaps: 1 is exponential (Poisson arrivals), larger ones are more even."""
    seed: int = 0
    is_streamed: bool = True
    cancel_rate: float = 0.0
    """Share of requests whose client leaves after a random token."""
    timeout_s: float = 600.0
    """For the whole of an answer."""
    goodput: dict[str, float] = {}
    """The longest times of a good request, in ms, by their names in `GOALS`."""
    ignore_eos: bool = False
    extra_body: dict[str, Any] = {}
    """Fields of each request, as they are."""
    is_detailed: bool = False
    """The report has the figures of each request, too."""
    api_key: str | None = None
    """Of a client."""
    num_gpus: int = 0
    num_cores: int = 0
    """What the endpoint runs on, for the figures per GPU or core; 0: nobody said."""

    def __post_init__(self) -> None:
        for wrong in _contradictions(self):
            raise ConfigError(wrong)


def _contradictions(load: Load) -> Iterator[str]:
    if taken := load.extra_body.keys() & _OURS.keys():
        name = min(taken)
        yield f"--extra-body {name}: that is what {_OURS[name] or 'the workload'} says"
    if math.isinf(load.request_rate) and load.ramp_to is not None:
        yield "a ramp begins at a rate: give --request-rate"
    if load.arrivals == "constant" and load.burstiness != 1:
        yield "--burstiness is about random gaps; those of --arrivals constant are equal"
    if not load.is_streamed and load.cancel_rate:
        yield "--cancel-rate is about tokens, and only a stream shows them: leave --no-stream out"
    if not load.is_streamed and (unseen := load.goodput.keys() - {"e2el"}):
        yield f"--goodput {min(unseen)} cannot be seen with --no-stream; e2el can"
    if unknown := load.goodput.keys() - set(GOALS):
        yield f"--goodput {min(unknown)}: there are {', '.join(GOALS)}"
