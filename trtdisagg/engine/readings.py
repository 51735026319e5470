"""What a request wants to know of its prompt, gathered chunk by chunk until the whole prompt is computed.

tokens    t0   t1   t2   t3          row i of the logits is what follows token i: it says how probable token i + 1
rows      r0   r1   r2   r3          was; the last row is the first output's
"""

from __future__ import annotations

import torch
from torch import Tensor

from trtdisagg.engine.request import Request, TokenLogprob
from trtdisagg.engine.sampling import token_logprobs


class PromptReadings:
    """
    :param request: wants log probabilities of its prompt, or its logits.
    """

    def __init__(self, request: Request) -> None:
        self._prompt = request.prompt_token_ids
        self._num_top = request.sampling.num_prompt_logprobs
        self._wants_logits = request.wants_context_logits
        self._rows: list[Tensor] = []
        self.logprobs: list[TokenLogprob] = []

    @staticmethod
    def wanted_by(request: Request) -> bool:
        return request.wants_context_logits or request.sampling.num_prompt_logprobs is not None

    def take(self, logits: Tensor, start: int) -> None:
        """
        :param logits: float32 [tokens, vocab], of the tokens from position `start` on.
        """
        if self._num_top is not None:
            tokens = self._prompt[start + 1 : start + 1 + len(logits)]
            self.logprobs += token_logprobs(logits[: len(tokens)], tokens, self._num_top)
        if self._wants_logits:
            self._rows.append(logits[: max(0, len(self._prompt) - start)].to("cpu", copy=True))

    @property
    def logits(self) -> Tensor | None:
        """float32 [prompt tokens, vocab] on the CPU."""
        return torch.cat(self._rows) if self._wants_logits else None

    def start_over(self) -> None:
        self._rows.clear()
        self.logprobs.clear()
