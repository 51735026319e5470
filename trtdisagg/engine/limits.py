"""What one engine can hold, and which requests can therefore never be served.

Pure arithmetic: whether there is room at this moment is the scheduler's question.
"""

from __future__ import annotations

import msgspec

from trtdisagg.engine.request import Request
from trtdisagg.errors import ContextLengthError, RequestError


class Limits(msgspec.Struct, kw_only=True, frozen=True):
    """Sizes of one engine; the names are those of the spec file."""

    max_batch_size: int
    """Requests that run at once."""
    max_num_tokens: int
    """Tokens computed in one step."""
    max_seq_len: int
    """Prompt and output together."""
    max_queue_size: int = 1024
    """Requests that wait."""
    num_blocks: int
    tokens_per_block: int
    vocab_size: int

    @property
    def max_tokens_in_pool(self) -> int:
        return self.num_blocks * self.tokens_per_block

    def check(self, request: Request) -> None:
        """Refuse what can never be served.

        :raises ContextLengthError: when prompt and `max_tokens` exceed `max_seq_len` or the whole KV cache.
        :raises RequestError: when the prompt is empty, a token is not in the vocabulary or nothing is to be generated.
        """
        num_prompt, sampling = len(request.prompt_token_ids), request.sampling
        if not num_prompt:
            raise RequestError("The prompt is empty", param="prompt")
        if sampling.max_tokens < 1:
            raise RequestError(f"max_tokens is {sampling.max_tokens}; at least 1 is needed", param="max_tokens")
        self._check_tokens(request)
        if num_prompt + sampling.max_tokens > self.max_seq_len:
            raise ContextLengthError(
                f"The prompt has {num_prompt} tokens and max_tokens is {sampling.max_tokens}: together "
                f"{num_prompt + sampling.max_tokens}, but this server holds at most {self.max_seq_len} (max_seq_len)",
                param="prompt" if num_prompt >= self.max_seq_len else "max_tokens",
            )
        if (num_tokens := num_kv_tokens(request)) > self.max_tokens_in_pool:
            raise ContextLengthError(
                f"The request needs the KV of {num_tokens} tokens, but the KV cache of this server has room for "
                f"{self.max_tokens_in_pool} ({self.num_blocks} blocks of {self.tokens_per_block} tokens)",
                param="prompt" if num_prompt > self.max_tokens_in_pool else "max_tokens",
            )

    def _check_tokens(self, request: Request) -> None:
        for name, tokens in (
            ("prompt", request.prompt_token_ids),
            ("first_gen_tokens", request.output_token_ids),
            ("stop_token_ids", request.sampling.stop_token_ids),
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
