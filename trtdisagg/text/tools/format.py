"""How families of models write calls of tools, and which way a chat template teaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec


class ToolFormat(msgspec.Struct, kw_only=True, frozen=True):
    """
    A call in JSON:   begin {"name": ..., arguments_key: {...}} end
    `is_list`:        begin [{...}, {...}]
    `names_first`:    begin name names_first {...}
    """

    name: str
    """The one that vLLM and SGLang have for their parser."""
    begin: str
    """Announces a call."""
    end: str = ""
    """Ends it; empty: nothing does."""
    between: str = ""
    """Stands between two calls."""
    arguments_key: str = "arguments"
    starts_bare: bool = False
    """An answer may be a call from its first character on, with no announcement; then it is the only one."""
    is_list: bool = False
    names_first: str = ""
    """What stands between name and arguments, where the name is not in the JSON."""
    num_id_chars: int = 24
    """Of a call's id; some templates refuse others."""
    special_token_ids: Mapping[str, int] = {}
    """Those of the texts above that are special tokens: to be shown in the answer's text all the same."""

    def known_to(self, special_token_id: Callable[[str], int | None]) -> ToolFormat:
        """The same for one vocabulary.

        :param special_token_id: of a text, where it is a special token.
        """
        texts = [t for t in (self.begin, self.end, self.names_first) if t]
        ids = {t: i for t in texts if (i := special_token_id(t)) is not None}
        return msgspec.structs.replace(self, special_token_ids=ids)


HERMES = ToolFormat(name="hermes", begin="<tool_call>", end="</tool_call>", between="\n")
LLAMA = ToolFormat(name="llama3_json", begin="<|python_tag|>", arguments_key="parameters", starts_bare=True)
MISTRAL = ToolFormat(name="mistral", begin="[TOOL_CALLS]", is_list=True, num_id_chars=9)
MISTRAL_11 = ToolFormat(name="mistral", begin="[TOOL_CALLS]", names_first="[ARGS]", num_id_chars=9)

KNOWN = tuple(dict.fromkeys(f.name for f in (HERMES, LLAMA, MISTRAL, MISTRAL_11)))


def format_of(chat_template: str) -> ToolFormat | None:
    """
    :param chat_template: the source of one that takes tools.
    :return: None when the calls that it teaches are of no known form.
    """
    if "[TOOL_CALLS]" in chat_template:
        return MISTRAL_11 if "[ARGS]" in chat_template else MISTRAL
    if "<tool_call>" in chat_template and "<function=" not in chat_template:
        return HERMES
    if "<|python_tag|>" in chat_template or '{"name": function name, "parameters":' in chat_template:
        return LLAMA
    return None
