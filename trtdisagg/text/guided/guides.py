"""Guides: which tokens an answer may go on with, for every kind of GuideSpec.

Structurally the engine's `Guides` and `Guide`. llguidance is imported, and the vocabulary built, when the first
specification comes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from trtdisagg.errors import OverloadedError, RequestError
from trtdisagg.protocol.guide import GuideSpec
from trtdisagg.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Bits: TypeAlias = npt.NDArray[np.int32]

_MAX_CACHED = 64
_MAX_SPEC_CHARS = 1_000_000


class TokenGuide:
    """What one answer may go on with; not thread-safe.

    :param automaton: at the beginning of an answer; this one's own.
    """

    def __init__(self, spec: GuideSpec, automaton: LLMatcher, vocab_size: int) -> None:
        self._spec = spec
        self._automaton = automaton
        self._bits: Bits = np.zeros((vocab_size + 31) // 32, dtype=np.int32)
        self._address = self._bits.ctypes.data

    def mask(self) -> Bits:
        """
        :return: int32 [ceil(vocab / 32)], bit i of word w is set when token 32 w + i may come next. The same memory at
            every call.
        :raises RequestError: when the specification has become too complex to follow.
        """
        self._automaton.unsafe_compute_mask_ptr(self._address, self._bits.nbytes)
        if self._automaton.is_error():
            raise self._refusal()
        return self._bits

    def accept(self, token_id: int) -> None:
        """Go on behind this token.

        :raises ValueError: when it may not come here; the state stays.
        :raises RequestError: as `mask`.
        """
        if self._automaton.try_consume_tokens([token_id]) != 1:
            if self._automaton.is_error():
                raise self._refusal()
            raise ValueError(f"Token {token_id} does not follow the {self._spec.kind} of its request")

    @property
    def is_complete(self) -> bool:
        """Nothing more may come: the answer ends here."""
        return self._automaton.is_stopped()

    def _refusal(self) -> RequestError:
        from trtdisagg.text.guided.grammar import refusal

        return refusal(self._spec, self._automaton.get_error())


class TokenGuides:
    """Makes guides for one model; thread-safe.

    :param vocab_size: of the model's logits.
    :param compile_timeout_s: a specification that takes longer is refused; what it has begun ends when it ends.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, *, compile_timeout_s: float = 3.0) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._compile_timeout_s = compile_timeout_s
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="guides")
        self._lock = threading.Lock()
        self._vocabulary: LLTokenizer | None = None
        self._compiled: OrderedDict[GuideSpec, LLMatcher] = OrderedDict()
        """The most recently used last."""

    def open(self, spec: GuideSpec) -> TokenGuide:
        """A guide at the beginning of an answer. A specification that was not seen lately is compiled first, which may
        take as long as `compile_timeout_s`: not for the engine's thread.

        :raises RequestError: when the specification is wrong, too complex, or nothing satisfies it.
        :raises OverloadedError: when those of other requests take too long.
        """
        return TokenGuide(spec, self._automaton(spec).deep_copy(), self._vocab_size)

    def _automaton(self, spec: GuideSpec) -> LLMatcher:
        with self._lock:
            vocabulary = self._vocabulary = self._vocabulary or self._build_vocabulary()
            if spec in self._compiled:
                self._compiled.move_to_end(spec)
                return self._compiled[spec]
        automaton = self._compile(spec, vocabulary)
        with self._lock:
            self._compiled[spec] = automaton
            if len(self._compiled) > _MAX_CACHED:
                self._compiled.popitem(last=False)
        return automaton

    def _build_vocabulary(self) -> LLTokenizer:
        from trtdisagg.text.guided.vocabulary import vocabulary_of

        if not self._tokenizer.eos_token_ids:
            raise RequestError(
                "The model has no end-of-sequence token: no answer can be guided", param="response_format"
            )
        return vocabulary_of(self._tokenizer, self._vocab_size)

    def _compile(self, spec: GuideSpec, vocabulary: LLTokenizer) -> LLMatcher:
        from trtdisagg.text.guided.grammar import automaton_of, refusal

        if len(spec.text) > _MAX_SPEC_CHARS:
            raise refusal(spec, f"it is longer than {_MAX_SPEC_CHARS} characters")
        compiling = self._compiler.submit(automaton_of, spec, vocabulary)
        try:
            return compiling.result(self._compile_timeout_s)
        except TimeoutError:
            if compiling.cancel():
                raise OverloadedError(
                    "Schemas and grammars of other requests take long to compile; try again"
                ) from None
            raise refusal(spec, f"it takes longer than {self._compile_timeout_s:g} s to compile") from None
