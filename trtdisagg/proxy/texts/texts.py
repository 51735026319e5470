"""What the proxy asks about texts: the prompts of requests, /tokenize, /detokenize.

A prompt that is not read in time goes on unread: its request is routed by estimates, and a server says what is wrong
with it, if anything is. Who does the work, and when, is the crew's.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from trtdisagg.errors import RequestError, TrtdisaggError
from trtdisagg.protocol.texts import Answer, Begin, Detokenize, Job, Page, Prompt, Read, Tokenize, Unreadable
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.index.blocks import Root
from trtdisagg.proxy.path.request import Incoming
from trtdisagg.proxy.texts.crew import Crew
from trtdisagg.proxy.texts.process import is_long
from trtdisagg.text.block_hash import KEY_BYTES

SHORT_TIMEOUT_S, LONG_TIMEOUT_S = 2.0, 10.0
"""A prompt that takes longer to read is routed by an estimate: that costs less than to wait. One of 32k tokens takes a
tenth of a second, and there may be a hundred of them before it."""
PAGE_TIMEOUT_S = 30.0

logger = logging.getLogger(__name__)


class Reading(NamedTuple):
    """A prompt that was read."""

    num_tokens: int
    """Of all prompts of the body."""
    token_ids: msgspec.Raw | None
    """A JSON array; None: there are several prompts."""
    chains: Mapping[Root, Sequence[int]]
    """The keys of the first prompt's full blocks."""


class Texts:
    """
    :param models: name -> where its tokenizer is.
    :param routed: those whose prompts are read before they are routed.
    """

    def __init__(
        self, models: Mapping[str, str], deadlines: Deadlines, *, num_processes: int, routed: Collection[str] = ()
    ) -> None:
        self._models = models
        self._routed = frozenset(routed)
        self._crew = Crew(Begin(models=dict(models), warm=list(routed)), deadlines, num_processes)
        self._numbers = itertools.count(1)
        self.num_read = 0
        self.num_unread = 0
        """Prompts that went on unread."""

    async def run(self) -> None:
        """Keep the processes up, from the first job on, until cancelled."""
        await self._crew.run()

    @property
    def pids(self) -> list[int]:
        return self._crew.pids

    @property
    def num_waiting(self) -> int:
        return self._crew.num_waiting

    def can_read(self, model: str) -> bool:
        return model in self._models

    async def read_for_routing(self, incoming: Incoming, roots: Callable[[str], Sequence[Root]]) -> Reading | None:
        """Read the prompt of a request where routing looks at its tokens; None: it does not, or they are not known.

        :param roots: of which chains are wanted for a model.
        """
        if incoming.model not in self._routed:
            return None
        return await self.read(incoming, roots(incoming.model))

    async def read(self, incoming: Incoming, roots: Sequence[Root] = ()) -> Reading | None:
        """Read the prompt of a request; None: it is not known, for whatever reason.

        :param roots: for which chains are wanted.
        """
        if not self.can_read(incoming.model):
            return None
        job = Read(
            number=next(self._numbers),
            model=incoming.model,
            chat=incoming.chat,
            body=incoming.body,
            roots=list(roots),
        )
        try:
            answer = await self._do(job, LONG_TIMEOUT_S if is_long(job) else SHORT_TIMEOUT_S)
        except TrtdisaggError as e:
            logger.debug("%s: the prompt was not read: %s", incoming.request_id, e)
            self.num_unread += 1
            return None
        self.num_read += 1
        assert isinstance(answer, Prompt)
        token_ids = msgspec.Raw(answer.token_ids) if answer.token_ids else None
        chains = {root: _chain(c) for root, c in zip(roots, answer.chains, strict=True)}
        return Reading(answer.num_tokens, token_ids, chains)

    async def tokenize(self, model: str, body: bytes, max_model_len: int | None) -> bytes:
        """The body of an answer to /tokenize.

        :raises TrtdisaggError: what the client is to be told.
        """
        number = next(self._numbers)
        return await self._page(Tokenize(number=number, model=model, body=body, max_model_len=max_model_len))

    async def detokenize(self, model: str, body: bytes) -> bytes:
        """The body of an answer to /detokenize.

        :raises TrtdisaggError: what the client is to be told.
        """
        return await self._page(Detokenize(number=next(self._numbers), model=model, body=body))

    async def _page(self, job: Job) -> bytes:
        answer = await self._do(job, PAGE_TIMEOUT_S)
        assert isinstance(answer, Page)
        return answer.body

    async def _do(self, job: Job, timeout_s: float) -> Answer:
        """
        :raises TrtdisaggError: the job's own fault, or that nobody is there to do it.
        """
        answer = await self._crew.do(job, timeout_s)
        if isinstance(answer, Unreadable):
            raise _as_error(answer)
        return answer


def _chain(keys: bytes) -> list[int]:
    assert len(keys) % KEY_BYTES == 0
    return memoryview(keys).cast("Q").tolist()


def _as_error(answer: Unreadable) -> TrtdisaggError:
    told = answer.error
    error = (RequestError if answer.status < 500 else TrtdisaggError)(told.message, param=told.param)
    error.http_status, error.type, error.code = answer.status, told.type, told.code
    return error
