"""What one engine can hold, and which requests can therefore never be served.

Pure arithmetic: whether there is room at this moment is the scheduler's question.
"""

from __future__ import annotations

import msgspec

from trtdisagg.engine.request import Request
from trtdisagg.engine.sampling import check_sampling
from trtdisagg.errors import ContextLengthError, RequestError
from trtdisagg.protocol.spec import SchedulerPolicy

MAX_STEP_LOGITS_BYTES = 256 << 20
MAX_CONTEXT_LOGITS_BYTES = 1 << 30
"""Of one request that wants them."""
_LOGIT_BYTES = 4


class Limits(msgspec.Struct, kw_only=True, frozen=True):
    """Sizes of one engine, and how it uses them; the names are those of the spec file.

    With attention data parallelism batch, tokens of a step and blocks are those of each dp rank.
    """

    max_batch_size: int
    """Choices of requests that run at once."""
    max_num_tokens: int
    """Tokens computed in one step."""
    max_seq_len: int
    """Prompt and output together."""
    max_queue_size: int = 1024
    """Requests that wait."""
    num_blocks: int
    tokens_per_block: int
    vocab_size: int
    scheduler_policy: SchedulerPolicy = "max_utilization"
    enable_chunked_prefill: bool = True
    enable_block_reuse: bool = True
    enable_partial_reuse: bool = True
    event_buffer_max_size: int = 0
    dp_size: int = 1
    """Ranks that divide the requests."""
    overlap_transfers: bool = True
    """Compute while KV of others travels."""
    pipelined_transfers: bool = False
    """Tell who will fetch a prompt's KV of each piece that is computed."""
    model: str = ""
    """Fingerprint of the weights, part of the name of what is in a block."""

    @property
    def max_tokens_in_pool(self) -> int:
        return self.num_blocks * self.tokens_per_block

    @property
    def max_active(self) -> int:
        """No more than there are tokens in a step, so that all go on."""
        return min(self.max_batch_size, self.max_num_tokens)

    @property
    def max_rows(self) -> int:
        """Rows of logits in a step beside those that are sampled from."""
        return max(1, MAX_STEP_LOGITS_BYTES // (_LOGIT_BYTES * self.vocab_size) - self.max_active)

    def check(self, request: Request) -> None:
        """Refuse what can never be served.

        :raises ContextLengthError: when prompt and `max_tokens` exceed `max_seq_len` or the whole KV cache.
        :raises RequestError: when the prompt is empty, a token is not in the vocabulary, nothing is to be generated,
            more is generated than may be, or more is wanted of it than there is room for.
        """
        num_prompt, sampling = len(request.prompt_token_ids), request.sampling
        if not num_prompt:
            raise RequestError("The prompt is empty", param="prompt")
        if sampling.max_tokens < 1:
            raise RequestError(f"max_tokens is {sampling.max_tokens}; at least 1 is needed", param="max_tokens")
        if len(request.output_token_ids) > sampling.max_tokens:
            raise RequestError(
                f"first_gen_tokens holds {len(request.output_token_ids)} tokens, and at most {sampling.max_tokens} can "
                f"be generated behind this prompt (max_tokens, or what fits into max_seq_len {self.max_seq_len})",
                param="first_gen_tokens",
            )
        self._check_tokens(request)
        check_sampling(sampling, self.vocab_size)
        if num_prompt + sampling.max_tokens > self.max_seq_len:
            raise ContextLengthError(
                f"The prompt has {num_prompt} tokens and max_tokens is {sampling.max_tokens}: together "
                f"{num_prompt + sampling.max_tokens}, but this server holds at most {self.max_seq_len} (max_seq_len)",
                param="prompt" if num_prompt >= self.max_seq_len else "max_tokens",
            )
        self._check_choices(request)
        self._check_pool(request)
        self._check_logits(request)

    def _check_choices(self, request: Request) -> None:
        n = request.num_choices
        if not 1 <= n <= self.max_active:
            raise RequestError(f"n is {n}; this server runs 1 to {self.max_active} at once", param="n")
        if n > 1 and (request.type != "context_and_generation" or request.output_token_ids or request.ticket):
            raise RequestError(f"n is {n}, but the two phases of a request on two servers give one answer", param="n")

    def _check_pool(self, request: Request) -> None:
        num_prompt, num_tokens = len(request.prompt_token_ids), num_kv_tokens(request)
        pool = f"{self.num_blocks} blocks of {self.tokens_per_block} tokens"
        if num_tokens > self.max_tokens_in_pool:
            raise ContextLengthError(
                f"The request needs the KV of {num_tokens} tokens, but the KV cache of this server has room for "
                f"{self.max_tokens_in_pool} ({pool})",
                param="prompt" if num_prompt > self.max_tokens_in_pool else "max_tokens",
            )
        num_blocks = num_blocks_ever(request, self.tokens_per_block, request.num_choices)
        if self.scheduler_policy == "guaranteed_no_evict" and num_blocks > self.num_blocks:
            raise ContextLengthError(
                f"The request with n = {request.num_choices} needs {num_blocks} blocks at once, but the KV cache of "
                f"this server has {pool}",
                param="n",
            )
        num_known = num_prompt + len(request.output_token_ids)
        if not self.enable_chunked_prefill and num_known > self.max_num_tokens:
            raise ContextLengthError(
                f"The prompt has {num_known} tokens, but this server computes at most {self.max_num_tokens} in a step "
                f"(max_num_tokens) and no prompt in chunks (enable_chunked_prefill)",
                param="prompt",
            )

    def _check_logits(self, request: Request) -> None:
        num_prompt = len(request.prompt_token_ids)
        num_bytes = num_prompt * self.vocab_size * _LOGIT_BYTES
        if request.wants_context_logits and num_bytes > MAX_CONTEXT_LOGITS_BYTES:
            raise RequestError(
                f"The logits of {num_prompt} tokens are {num_bytes >> 20} MiB; "
                f"this server returns at most {MAX_CONTEXT_LOGITS_BYTES >> 20} MiB",
                param="return_context_logits",
            )

    def _check_tokens(self, request: Request) -> None:
        for name, tokens in (
            ("prompt", request.prompt_token_ids),
            ("first_gen_tokens", request.output_token_ids),
        ):
            if tokens and not (min(tokens) >= 0 and max(tokens) < self.vocab_size):
                wrong = next(t for t in tokens if not 0 <= t < self.vocab_size)
                raise RequestError(f"Token {wrong} is not in the vocabulary (0 to {self.vocab_size - 1})", param=name)


def num_kv_tokens(request: Request) -> int:
    """How many KV positions the request fills until its end. The last token that is generated is never computed.

    A context_only request ends here with its next token, whatever `max_tokens` says.
    """
    num_known = len(request.prompt_token_ids) + len(request.output_token_ids)
    if request.type == "context_only":
        return num_known
    return max(num_known, len(request.prompt_token_ids) + request.sampling.max_tokens - 1)


def num_blocks_ever(request: Request, tokens_per_block: int, num_choices: int) -> int:
    """How many blocks the choices of a request fill until their end: those that the prompt fills are shared."""
    num_blocks = -(-num_kv_tokens(request) // tokens_per_block)
    return num_blocks + (num_choices - 1) * (num_blocks - len(request.prompt_token_ids) // tokens_per_block)
