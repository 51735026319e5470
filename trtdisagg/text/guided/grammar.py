"""GuideSpec -> the automaton that follows it, before the first token; all that can be wrong with one is found here."""

from __future__ import annotations

import msgspec
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from trtdisagg.errors import RequestError
from trtdisagg.protocol.guide import GuideKind, GuideSpec
from trtdisagg.text.guided.json_form import WHITESPACE

_LIMITS = LLParserLimits(
    max_items_in_row=2_000,  # ways to go on at one place
    initial_lexer_fuel=1_000_000,  # some 20 ms
    step_lexer_fuel=200_000,  # of one mask: some 15 ms
    step_max_items=50_000,  # of one mask: some 3 ms
    max_lexer_states=50_000,  # of one answer: 2 kB each
    max_grammar_size=500_000,
    verbose_errors=False,
)
_MAX_REASON_CHARS = 300
_NOTHING = "nothing satisfies it"
_WHAT: dict[GuideKind, str] = {
    "json_object": "JSON",
    "json_schema": "JSON schema",
    "regex": "regular expression",
    "grammar": "grammar",
    "choice": "choice",
}


def automaton_of(spec: GuideSpec, vocabulary: LLTokenizer) -> LLMatcher:
    """Compile; the GIL is free where it takes long.

    :raises RequestError: when the specification is wrong, too complex, or nothing satisfies it.
    """
    try:
        grammar = _grammar(spec)
    except Exception as e:  # what the library raises, it says with bare exceptions
        raise refusal(spec, str(e)) from e
    automaton = LLMatcher(vocabulary, grammar, log_level=0, limits=_LIMITS)
    probe = automaton.deep_copy()
    allowed = probe.compute_bitmask() if not probe.is_error() else b""
    if probe.is_error():
        raise refusal(spec, probe.get_error())
    if not any(allowed):
        raise refusal(spec, _NOTHING)
    return automaton


def refusal(spec: GuideSpec, reason: str) -> RequestError:
    """What to answer when a specification cannot be followed, be it at once or after some tokens."""
    reason = reason.removesuffix("<non-verbose/>").strip()
    if reason.startswith("NoExtension"):
        reason = _NOTHING
    if len(reason) > _MAX_REASON_CHARS:
        reason = reason[:_MAX_REASON_CHARS] + "..."
    return RequestError(f"The {_WHAT[spec.kind]} of this request cannot be followed: {reason}", param=spec.param)


def _grammar(spec: GuideSpec) -> str:
    match spec.kind:
        case "json_object":
            return LLMatcher.grammar_from_json_schema('{"type":"object"}', defaults={"whitespace_pattern": WHITESPACE})
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(spec.text, defaults={"whitespace_pattern": WHITESPACE})
        case "regex":
            return LLMatcher.grammar_from_regex(spec.text)
        case "grammar":
            return LLMatcher.grammar_from_lark(any_to_lark(spec.text))
        case "choice":
            texts = msgspec.json.decode(spec.text, type=list[str])
            return LLMatcher.grammar_from_lark("start: " + " | ".join(msgspec.json.encode(t).decode() for t in texts))
