"""From an OpenAI body to a job: what the engine is to compute, and how the answer is to look.

Everything that can be refused by looking at the body alone is refused here; what is a question of room, by the
executor.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid
from typing import Any

import msgspec

from trtdisagg.engine.request import Request, SamplingParams
from trtdisagg.errors import HandoverError, ModelNotFoundError, RequestError, UnsupportedError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.handover import DisaggregatedParams, Seam, Ticket, unseal
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest, StreamOptions, decode_request
from trtdisagg.protocol.spec import EngineSpec, SamplingDefaults
from trtdisagg.text.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = 16
"""Of a completion, as OpenAI has it; a chat without max_tokens gets what fits."""
MAX_STOPS, MAX_STOP_CHARS = 64, 1000
_LONG_TEXT = 4096
"""Characters from which tokenizing is worth a thread: the event loop goes on meanwhile."""
_NOT_ENABLED = (
    "Disaggregated serving is not enabled, please check the configuration. "
    "Set `cache_transceiver_config.backend` for this server, to DEFAULT for example."
)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One request, checked."""

    request: Request
    chat: bool
    model: str
    id: str
    """What the client sees."""
    created: int
    stream: bool
    """The answer to this leg is a stream."""
    frames_stream: bool
    """The client's stream is made here: of this leg, or, on a context leg, its first part."""
    has_begun: bool
    """The client has had the beginning of its stream from another server."""
    include_usage: bool
    continuous_usage: bool
    stops: list[str]
    include_stop: bool
    skip_special_tokens: bool
    num_chars_sent: int
    params: DisaggregatedParams | None
    seam: Seam | None

    @property
    def is_context_only(self) -> bool:
        return self.request.type == "context_only"


class Intake:
    """
    :param secret: the cluster's, with which tickets are sealed.
    """

    def __init__(self, spec: EngineSpec, tokenizer: Tokenizer, secret: bytes) -> None:
        self._spec = spec
        self._tokenizer = tokenizer
        self._secret = secret
        self._request_ids = itertools.count(1)

    async def completion(self, body: bytes) -> Job:
        """
        :raises RequestError: saying what is wrong with the body.
        """
        wish = decode_request(body, CompletionRequest)
        self._check(wish)
        ids = wish.prompt_token_ids
        if ids is None:
            prompt = _only_prompt(wish.prompt)
            ids = prompt if isinstance(prompt, list) else await self._encode(prompt, special=wish.add_special_tokens)
        return self._job(wish, ids, wish.max_tokens or min(DEFAULT_MAX_TOKENS, self._room(ids)))

    async def chat(self, body: bytes) -> Job:
        """
        :raises RequestError: saying what is wrong with the body.
        """
        wish = decode_request(body, ChatRequest)
        self._check(wish)
        ids = wish.prompt_token_ids
        if ids is None:
            if not wish.messages:
                raise RequestError("`messages` is empty", param="messages")
            text = self._tokenizer.render_chat(
                wish.messages, add_generation_prompt=wish.add_generation_prompt, variables=wish.chat_template_kwargs
            )
            ids = await self._encode(text, special=False)
        return self._job(wish, ids, wish.max_completion_tokens or wish.max_tokens or self._room(ids))

    def _check(self, wish: CompletionRequest | ChatRequest) -> None:
        if wish.model != self._spec.model:
            raise ModelNotFoundError(
                f"The model `{wish.model}` is not served here; this server has `{self._spec.model}`", param="model"
            )
        if wish.seam and wish.seam.wire_version != WIRE_VERSION:
            raise RequestError(f"`seam` has another wire version than {WIRE_VERSION}", param="seam")
        params = wish.disaggregated_params
        if params is None or params.request_type == "context_and_generation":
            return
        if not self._spec.transports:
            raise RequestError(_NOT_ENABLED, param="disaggregated_params")
        if params.request_type == "context_only" and wish.stream:
            raise RequestError("A context_only request cannot be streamed", param="stream")
        if params.request_type == "generation_only" and not params.first_gen_tokens:
            raise RequestError("A generation_only request needs `first_gen_tokens`", param="disaggregated_params")

    async def _encode(self, text: str, *, special: bool) -> list[int]:
        if len(text) < _LONG_TEXT:
            return self._tokenizer.encode(text, add_special_tokens=special)
        return await asyncio.to_thread(self._tokenizer.encode, text, add_special_tokens=special)

    def _room(self, prompt: list[int]) -> int:
        """Tokens that fit behind a prompt. Behind one that is too long there is one, and the executor refuses both."""
        in_pool = self._spec.num_blocks * self._spec.tokens_per_block + 1  # the last token is never computed
        return max(1, min(self._spec.max_seq_len, in_pool) - len(prompt))

    def _job(self, wish: CompletionRequest | ChatRequest, prompt: list[int], max_tokens: int) -> Job:
        params, seam = wish.disaggregated_params, wish.seam
        type_ = params.request_type if params else "context_and_generation"
        request = Request(
            id=next(self._request_ids),
            type=type_,
            prompt_token_ids=prompt,
            output_token_ids=(params.first_gen_tokens or []) if params and type_ == "generation_only" else [],
            sampling=_sampling(wish, max_tokens, self._spec.sampling_defaults),
            ticket=self._ticket(params) if params and type_ == "generation_only" else None,
        )
        options = wish.stream_options or StreamOptions()
        return Job(
            request=request,
            chat=isinstance(wish, ChatRequest),
            model=wish.model,
            id=seam.id if seam else ("chatcmpl-" if isinstance(wish, ChatRequest) else "cmpl-") + uuid.uuid4().hex,
            created=seam.created if seam else int(time.time()),
            stream=wish.stream,
            frames_stream=wish.stream or bool(seam and seam.stream),
            has_begun=bool(seam and seam.stream and request.output_token_ids),
            include_usage=options.include_usage or bool(seam and seam.include_usage),
            continuous_usage=options.continuous_usage_stats or bool(seam and seam.continuous_usage_stats),
            stops=_stops(wish.stop),
            include_stop=wish.include_stop_str_in_output,
            skip_special_tokens=wish.skip_special_tokens,
            num_chars_sent=seam.num_chars_sent if seam else 0,
            params=params,
            seam=seam,
        )

    def _ticket(self, params: DisaggregatedParams) -> Ticket | None:
        if params.encoded_opaque_state is None:
            return None
        try:
            return unseal(params.encoded_opaque_state, self._secret)
        except HandoverError as e:
            raise RequestError(f"In `encoded_opaque_state`: {e}", param="disaggregated_params") from e


def _only_prompt(prompt: str | list[Any]) -> str | list[int]:
    """Text or token ids; a list of prompts may hold one."""
    if isinstance(prompt, list) and prompt and not all(type(p) is int for p in prompt):
        if any(type(p) is int for p in prompt):
            raise RequestError("`prompt` mixes token ids and prompts", param="prompt")
        if len(prompt) > 1:
            raise UnsupportedError(
                f"`prompt` holds {len(prompt)} prompts; this server takes one a request", param="prompt"
            )
        prompt = prompt[0]
    if not prompt:
        raise RequestError("The prompt is empty", param="prompt")
    return prompt


def _stops(stop: str | list[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not all(stops):
        raise RequestError("A stop string is empty", param="stop")
    if len(stops) > MAX_STOPS or any(len(s) > MAX_STOP_CHARS for s in stops):
        raise RequestError(
            f"`stop` takes at most {MAX_STOPS} strings of at most {MAX_STOP_CHARS} characters", param="stop"
        )
    return stops


def _sampling(wish: CompletionRequest | ChatRequest, max_tokens: int, defaults: SamplingDefaults) -> SamplingParams:
    min_tokens = wish.min_tokens or 0
    top_k = defaults.top_k if wish.top_k is None else wish.top_k
    if min_tokens > max_tokens:
        raise RequestError(f"`min_tokens` is {min_tokens}, more than max_tokens, {max_tokens}", param="min_tokens")
    if top_k < -1:
        raise RequestError(f"`top_k` is {top_k}; 0 or -1 means all tokens", param="top_k")
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=defaults.temperature if wish.temperature is None else wish.temperature,
        top_k=max(top_k, 0),
        top_p=defaults.top_p if wish.top_p is None else wish.top_p,
        seed=random.getrandbits(63) if wish.seed is None else wish.seed,
        ignore_eos=wish.ignore_eos,
        stop_token_ids=frozenset(wish.stop_token_ids or ()),
    )
