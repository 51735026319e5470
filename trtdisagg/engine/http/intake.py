"""From an OpenAI body to a job: what the engine is to compute, and how the answer is to look.

Everything that can be refused by looking at the body alone is refused here; what is a question of room, by the
executor.
"""

from __future__ import annotations

import itertools
import time
import uuid

from trtdisagg.engine.http.handed import Handed, check_leg, take_over
from trtdisagg.engine.http.job import Job, Look
from trtdisagg.engine.http.logits import check_room
from trtdisagg.engine.http.prompts import echoes_of, tokens_of
from trtdisagg.engine.http.sampling import Wish, num_generated, num_shown_logprobs, sampling_params
from trtdisagg.engine.request import Request
from trtdisagg.errors import ModelNotFoundError, RequestError
from trtdisagg.protocol.decoding import decode_request
from trtdisagg.protocol.guide import GuideSpec
from trtdisagg.protocol.indivisible import why_indivisible
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest, StreamOptions
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.text.guided.request import guide_of
from trtdisagg.text.tokenizer import Tokenizer
from trtdisagg.text.tools.use import ToolUse, tool_use

DEFAULT_MAX_TOKENS = 16
"""Of a completion, as OpenAI has it; a chat without max_tokens gets what fits."""
MAX_STOPS, MAX_STOP_CHARS = 64, 1000


class Intake:
    """
    :param secret: the cluster's, with which tickets are sealed.
    """

    def __init__(self, spec: EngineSpec, tokenizer: Tokenizer, secret: bytes) -> None:
        self._spec = spec
        self._tokenizer = tokenizer
        self._secret = secret
        self._request_ids = itertools.count(1)

    async def completion(self, body: bytes, timeout_s: float | None = None) -> Job:
        """
        :param timeout_s: where the body says none.
        :raises RequestError: saying what is wrong with the body.
        """
        wish = decode_request(body, CompletionRequest)
        self._check(wish)
        if wish.max_tokens == 0 and not wish.echo:
            raise RequestError("`max_tokens` is 0, which is allowed only with `echo`", param="max_tokens")
        prompts = await tokens_of(wish, self._tokenizer)
        return self._job(wish, prompts, timeout_s, None)

    async def chat(self, body: bytes, timeout_s: float | None = None) -> Job:
        """
        :raises RequestError: saying what is wrong with the body.
        """
        wish = decode_request(body, ChatRequest)
        self._check(wish)
        tools = tool_use(wish.tools, wish.tool_choice, wish.parallel_tool_calls, self._tokenizer)
        prompts = await tokens_of(wish, self._tokenizer, tools.tools if tools else None)
        return self._job(wish, prompts, timeout_s, tools)

    def _check(self, wish: Wish) -> None:
        if wish.model != self._spec.model:
            raise ModelNotFoundError(
                f"The model `{wish.model}` is not served here; this server has `{self._spec.model}`", param="model"
            )
        check_leg(wish, is_enabled=bool(self._spec.transfer.transports))
        if (wish.n or 1) > 1 or wish.best_of is not None:
            self._check_num_answers(wish)
        if wish.stream:
            _check_streamed(wish)

    def _check_num_answers(self, wish: Wish) -> None:
        num, best_of = wish.n or 1, wish.best_of
        if best_of is not None and best_of < num:
            raise RequestError(f"`best_of` is {best_of}, less than `n`, {num}", param="best_of")
        if num_generated(wish) > self._spec.max_batch_size:
            name = "n" if best_of is None else "best_of"
            raise RequestError(
                f"`{name}` is {num_generated(wish)}; this server runs {self._spec.max_batch_size} at once "
                "(max_batch_size)",
                param=name,
            )

    def _job(self, wish: Wish, prompts: list[list[int]], timeout_s: float | None, tools: ToolUse | None) -> Job:
        if len(prompts) > self._spec.max_queue_size:
            raise RequestError(
                f"`prompt` holds {len(prompts)} prompts; at most {self._spec.max_queue_size} can wait (max_queue_size)",
                param="prompt",
            )
        seam, handed, options = wish.seam, take_over(wish, self._secret), wish.stream_options or StreamOptions()
        chat = isinstance(wish, ChatRequest)
        guide, timeout_s = _guide(wish, tools), wish.timeout or timeout_s
        requests = [self._request(wish, prompt, handed, guide, timeout_s) for prompt in prompts]
        return Job(
            requests=requests,
            num_answers=wish.n or 1,
            length_penalty=1.0 if wish.length_penalty is None else wish.length_penalty,
            look=self._look(wish, prompts, tools),
            chat=chat,
            model=wish.model,
            id=seam.id if seam else ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex,
            created=seam.created if seam else int(time.time()),
            stream=wish.stream,
            frames_stream=wish.stream or bool(seam and seam.stream),
            has_begun=bool(seam and seam.stream) and requests[0].type == "generation_only",
            has_ended=bool(seam and seam.has_ended),
            include_usage=options.include_usage or bool(seam and seam.include_usage),
            continuous_usage=options.continuous_usage_stats or bool(seam and seam.continuous_usage_stats),
            num_chars_sent=seam.num_chars_sent if seam else 0,
            first_logprobs=handed.logprobs,
            num_cached_elsewhere=handed.num_cached_tokens,
            params=wish.disaggregated_params,
            seam=seam,
            has_parts=bool(seam and (wish.stream or seam.stream)) and why_indivisible(wish) is None,
        )

    def _request(
        self, wish: Wish, prompt: list[int], handed: Handed, guide: GuideSpec | None, timeout_s: float | None
    ) -> Request:
        params, max_tokens = wish.disaggregated_params, self._max_tokens(wish, prompt)
        num_logits = len(prompt) * wish.return_context_logits + max_tokens * wish.return_generation_logits
        check_room(num_logits, self._tokenizer.vocab_size)
        return Request(
            id=next(self._request_ids),
            type=params.request_type if params else "context_and_generation",
            prompt_token_ids=prompt,
            output_token_ids=handed.token_ids,
            sampling=sampling_params(wish, max_tokens, self._spec.sampling_defaults, self._tokenizer),
            ticket=handed.ticket,
            num_choices=num_generated(wish),
            reader=wish.seam.generation if wish.seam else None,
            priority=wish.priority or 0,
            timeout_s=timeout_s,
            guide=guide,
            cache_salt=wish.cache_salt,
            wants_context_logits=wish.return_context_logits,
            wants_generation_logits=wish.return_generation_logits,
        )

    def _max_tokens(self, wish: Wish, prompt: list[int]) -> int:
        """At least 1; that of a prompt which is wanted alone is thrown away."""
        if isinstance(wish, ChatRequest):
            return wish.max_completion_tokens or wish.max_tokens or self._room(prompt)
        if wish.max_tokens is None:
            return min(DEFAULT_MAX_TOKENS, self._room(prompt))
        return max(1, wish.max_tokens)

    def _room(self, prompt: list[int]) -> int:
        """Tokens that fit behind a prompt. Behind one that is too long there is one, and the executor refuses both."""
        in_pool = self._spec.num_blocks * self._spec.tokens_per_block + 1  # the last token is never computed
        return max(1, min(self._spec.max_seq_len, in_pool) - len(prompt))

    def _look(self, wish: Wish, prompts: list[list[int]], tools: ToolUse | None) -> Look:
        echoes = []
        if isinstance(wish, CompletionRequest) and wish.echo:
            echoes = echoes_of(wish, prompts, self._tokenizer)
        return Look(
            stops=_stops(wish.stop),
            include_stop=wish.include_stop_str_in_output,
            skip_special_tokens=wish.skip_special_tokens,
            num_logprobs=num_shown_logprobs(wish),
            num_prompt_logprobs=wish.prompt_logprobs,
            detokenize=wish.detokenize,
            token_ids=wish.return_token_ids or not wish.detokenize,
            prompt_token_ids=wish.return_token_ids,
            echoes=echoes,
            tools=tools,
            only_echo=bool(echoes) and wish.max_tokens == 0,
        )


def _check_streamed(wish: Wish) -> None:
    asked = {
        "best_of": num_generated(wish) > (wish.n or 1),
        "prompt_logprobs": wish.prompt_logprobs is not None,
        "return_context_logits": wish.return_context_logits,
        "return_generation_logits": wish.return_generation_logits,
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise RequestError(f"`{name}` cannot be streamed", param=name)


def _guide(wish: Wish, tools: ToolUse | None) -> GuideSpec | None:
    guide = guide_of(
        wish.response_format,
        structured_outputs=wish.structured_outputs,
        guided_json=wish.guided_json,
        guided_regex=wish.guided_regex,
        guided_choice=wish.guided_choice,
        guided_grammar=wish.guided_grammar,
    )
    if tools is None or tools.guide is None:
        return guide
    if guide is not None:
        raise RequestError("An answer that must call tools cannot have a form of its own, too", param=guide.param)
    return tools.guide


def _stops(stop: str | list[str] | None) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not all(stops):
        raise RequestError("A stop string is empty", param="stop")
    if len(stops) > MAX_STOPS or any(len(s) > MAX_STOP_CHARS for s in stops):
        raise RequestError(
            f"`stop` takes at most {MAX_STOPS} strings of at most {MAX_STOP_CHARS} characters", param="stop"
        )
    return stops
