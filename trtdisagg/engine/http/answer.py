"""One answer, from tokens to what is said of them. Pure.

tokens -> detokenizer -> stop strings -> what the client already has is left out -> pieces
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat

import msgspec
from torch import Tensor

from trtdisagg.engine.http.job import Job
from trtdisagg.engine.http.piece import Piece, join_calls
from trtdisagg.engine.http.tokens import Said, Waiting, spell_prompt
from trtdisagg.engine.request import Output, Request, TokenLogprob
from trtdisagg.errors import DeadlineError, RequestError, TrtdisaggError, UnavailableError
from trtdisagg.protocol.answers import FinishReason
from trtdisagg.protocol.handover import SeamPart
from trtdisagg.protocol.tools import ToolCallDelta
from trtdisagg.text.detokenizer import Detokenizer
from trtdisagg.text.stop import StopStrings
from trtdisagg.text.tokenizer import Tokenizer


class Prompt:
    """What is said of the prompt of one request; how probable it is, is known with the first output."""

    def __init__(self, job: Job, number: int, tokenizer: Tokenizer) -> None:
        self.token_ids = job.requests[number].prompt_token_ids
        self.echo = job.look.echoes[number] if job.look.echoes else ""
        self.tokens: list[Said] = []
        self.logits: Tensor | None = None
        self.num_cached_tokens = 0
        self._tokenizer = tokenizer

    def take(self, output: Output) -> None:
        """Take what an output says of it."""
        self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached_tokens)
        if output.prompt_logprobs:
            self.tokens = spell_prompt(self.token_ids, output.prompt_logprobs, self._tokenizer)
        if output.context_logits is not None:
            self.logits = output.context_logits


class Answer:
    """
    :param index: among the job's answers.
    :param request: tokens that it comes with are taken in first.
    """

    def __init__(self, job: Job, index: int, request: Request, prompt: Prompt, tokenizer: Tokenizer) -> None:
        look = job.look
        self.index = index
        self.prompt = prompt
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        """Where the engine gives them."""
        self.logits: list[Tensor] = []
        self.finish_reason: FinishReason | None = None
        self._look = look
        self._stop_token_ids = request.sampling.stop_token_ids
        self._detokenizer = Detokenizer(
            tokenizer,
            request.prompt_token_ids,
            skip_special_tokens=look.skip_special_tokens,
            shown_token_ids=look.tools.form.special_token_ids.values() if look.tools else (),
        )
        self._tools = look.tools.stream(f"{job.id}/{index}") if look.tools else None
        self._is_named = bool(look.tools and look.tools.is_named)
        self._stops = StopStrings(look.stops, include=look.include_stop)
        self._waiting = Waiting(tokenizer.token_bytes) if look.shows_tokens else None
        self._kept = ""
        """Text that is said with the last of its tokens."""
        self._one_by_one = bool(look.stops) or look.shows_tokens
        self._num_read = 0
        """Characters, as is what follows."""
        self.num_passed = 0
        self._num_to_skip = job.num_chars_sent
        self._num_told = len(request.output_token_ids)
        self._is_echo_due = False
        said, hidden = request.output_token_ids, []
        if not look.include_stop and _ends_with_stop(request, tokenizer):
            said, hidden = said[:-1], said[-1:]
        text, stop = self._read(said, job.first_logprobs)
        self._hide(hidden)
        if self._waiting is not None and job.has_begun:
            self._waiting.drop(job.num_chars_sent)
        self.begin = self._piece(text, "stop" if stop is not None or job.has_ended else None, stop)
        """What the tokens that came with the request say and the client does not have."""
        self._is_echo_due = bool(look.echoes)

    @property
    def is_complete(self) -> bool:
        return self.finish_reason is not None

    def part(self) -> SeamPart:
        """What it takes to go on behind what is said by now; with tokens since it was asked last."""
        end = len(self.token_ids)
        if self._waiting is not None and self._look.num_logprobs is not None:
            end = max(self._num_told, end - len(self._waiting))  # elsewhere, nobody knows the others' probabilities
        start, self._num_told = self._num_told, end
        return SeamPart(self.num_passed, self.token_ids[start:end])

    def take(self, output: Output) -> Piece:
        """Take what the engine gave.

        :raises TrtdisaggError: when it failed.
        """
        _raise_if_failed(output)
        reason = output.finish_reason
        if self._look.only_echo:
            return self._piece("", reason and "length")
        said, hidden = output.new_token_ids, []
        if output.stop_token_id is not None and not self._look.include_stop:
            said, hidden = said[:-1], said[-1:]
        self._keep(output)
        text, stop = self._read(said, output.logprobs)
        if stop is not None:
            return self._piece(text, "stop", stop)
        self._hide(hidden)
        if reason is None or reason == "not_finished":
            return self._piece(text, reason)
        return self._end(text, reason, output.stop_token_id)

    def _hide(self, token_ids: Sequence[int]) -> None:
        """Take the token that ends the answer, where it counts and is not said."""
        for token_id in token_ids:
            self.token_ids.append(token_id)
            if self._waiting is not None:
                self._waiting.hide(token_id)

    def _keep(self, output: Output) -> None:
        self.logprobs += output.logprobs
        if output.generation_logits is not None:
            self.logits.append(output.generation_logits)

    def _end(self, text: str, reason: FinishReason, stop_token_id: int | None) -> Piece:
        """No more tokens come: what was held back comes out, and may complete a stop string."""
        more, stop = self._stops.push(self._detokenizer.flush())
        if stop is not None:
            return self._piece(text + more, "stop", stop)
        wanted = stop_token_id in self._stop_token_ids
        return self._piece(text + more + self._stops.flush(), reason, stop_token_id if wanted else None)

    def _read(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> tuple[str, str | None]:
        """Take tokens; returns the text that may be said, and the stop string that ends it."""
        if not self._one_by_one:
            self.token_ids += token_ids
            return self._detokenizer.push(token_ids), None
        text = ""
        for token_id, logprob in zip(token_ids, chain(logprobs, repeat(None)), strict=False):
            self.token_ids.append(token_id)
            passed, stop = self._stops.push(self._spell_out(token_id, logprob))
            text += passed
            if stop is not None:
                return text, stop
        return text, None

    def _spell_out(self, token_id: int, logprob: TokenLogprob | None) -> str:
        offset, text = self._num_read, self._detokenizer.push([token_id])
        self._num_read += len(text)
        if self._waiting is not None:
            end = None if self._detokenizer.is_within_character else self._num_read
            self._waiting.add(token_id, logprob, offset=offset, end=end)
        return text

    def _piece(self, text: str, reason: FinishReason | None = None, stop_reason: str | int | None = None) -> Piece:
        is_last = reason not in (None, "not_finished")
        text, tokens = self._with_tokens(text, is_last=is_last, is_cut=isinstance(stop_reason, str))
        self.num_passed += len(text)
        num_skipped = min(self._num_to_skip, len(text))
        self._num_to_skip -= num_skipped
        calls: list[ToolCallDelta] = []
        if self._tools is not None:
            text, calls = self._calls_in(text, num_skipped, is_last=is_last)
            if reason == "stop" and self._tools.calls and not self._is_named:
                reason = "tool_calls"
        elif num_skipped:
            text = text[num_skipped:]
        self.finish_reason = reason
        piece = Piece(self.index, text, tokens, calls, reason, stop_reason)
        return self._behind_echo(piece) if self._look.echoes else piece

    def _calls_in(self, text: str, num_skipped: int, *, is_last: bool) -> tuple[str, list[ToolCallDelta]]:
        """What of a text is for the client to read, and what calls."""
        assert self._tools is not None
        self._tools.push(text[:num_skipped])  # the client has had it
        content, calls = self._tools.push(text[num_skipped:])
        if is_last:
            rest = self._tools.flush()
            content, calls = content + rest.content, join_calls(calls, rest.calls)
        return content, calls

    def _with_tokens(self, text: str, *, is_last: bool, is_cut: bool) -> tuple[str, list[Said]]:
        """What is said of a text that may be said, and the tokens that say it; the rest is kept."""
        if self._waiting is None:
            return text, []
        text = self._kept + text
        num_chars = self.num_passed + len(text)
        if is_last:
            return text, self._waiting.rest(num_chars if is_cut else None)
        tokens = self._waiting.said(num_chars)
        end = self._waiting.num_chars - self.num_passed
        self._kept = text[end:]
        return text[:end], tokens

    def _behind_echo(self, piece: Piece) -> Piece:
        shift = len(self.prompt.echo)
        text, tokens = piece.text, [said._replace(offset=said.offset + shift) for said in piece.tokens]
        if self._is_echo_due:
            text, tokens = self.prompt.echo + text, self.prompt.tokens + tokens
            self._is_echo_due = False
        return msgspec.structs.replace(piece, text=text, tokens=tokens)


def _ends_with_stop(request: Request, tokenizer: Tokenizer) -> bool:
    """Whether the tokens that came with a request are all of its answer: as the engine will find, too."""
    tokens, sampling = request.output_token_ids, request.sampling
    if len(tokens) <= sampling.min_tokens:
        return False
    return tokens[-1] in sampling.stop_token_ids or (not sampling.ignore_eos and tokens[-1] in tokenizer.eos_token_ids)


def _raise_if_failed(output: Output) -> None:
    match output.finish_reason:
        case "error" if output.is_own_fault:
            raise RequestError(output.error or "The request cannot be answered as it stands")
        case "error":
            raise TrtdisaggError(output.error or "The engine failed to compute this request")
        case "cancelled":
            raise UnavailableError("The server is shutting down")
        case "timeout":
            raise DeadlineError("The request's `timeout` passed before its answer was complete")
