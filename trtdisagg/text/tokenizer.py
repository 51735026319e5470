"""One model's tokenizer: text to tokens and back, the ids that end an answer, and the chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from trtdisagg.errors import StartupError, UnsupportedError
from trtdisagg.protocol.openai import ChatMessage
from trtdisagg.text.chat_template import ChatTemplate
from trtdisagg.text.detokenizer import Detokenizer
from trtdisagg.text.gguf_header import read_gguf_header
from trtdisagg.text.gguf_tokenizer import build_gguf_tokenizer
from trtdisagg.text.json_file import read_json
from trtdisagg.text.model_files import ModelFiles
from trtdisagg.text.token_bytes import TokenBytes
from trtdisagg.text.tools.format import KNOWN, ToolFormat, format_of


class Tokenizer:
    """
    :param eos_token_ids: any of them ends an answer.
    :param special_tokens: `bos_token` and its like, as text, for the chat template.
    :param tool_template: the one for conversations with tools, where a model has one of its own for them.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        name: str,
        eos_token_ids: frozenset[int],
        special_tokens: dict[str, str],
        chat_template: str | None,
        tool_template: str | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.token_bytes = TokenBytes(backend)
        self.eos_token_ids = eos_token_ids
        bos = special_tokens.get("bos_token")
        self.bos_token_id: int | None = backend.token_to_id(bos) if bos else None
        self.special_token_ids = frozenset(i for i, t in backend.get_added_tokens_decoder().items() if t.special)
        self.vocab_size: int = backend.get_vocab_size()
        self._name = name
        self._chat_template = ChatTemplate(chat_template, model=name, special_tokens=special_tokens)
        self._tool_template = self._chat_template
        if tool_template is not None:
            self._tool_template = ChatTemplate(tool_template, model=name, special_tokens=special_tokens)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Tokens of a text; releases the GIL, so a long text may be given to a thread.

        :param add_special_tokens: put before it what the model expects there; a rendered chat has it already.
        """
        ids: list[int] = self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of tokens; bytes that are no UTF-8 become U+FFFD."""
        detokenizer = Detokenizer(self, skip_special_tokens=skip_special_tokens)
        return detokenizer.push(token_ids) + detokenizer.flush()

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Tokens as they stand in the vocabulary."""
        return [self._backend.id_to_token(t) or "" for t in token_ids]

    def render_chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Make one prompt of a conversation; encode it without special tokens.

        :param tools: that the model is told of, as the client sent them.
        :param variables: further ones of the template.
        :raises RequestError: when the model has no chat template, or it refuses the conversation.
        """
        template = self._tool_template if tools else self._chat_template
        return template.render(
            messages, add_generation_prompt=add_generation_prompt, tools=tools or None, variables=variables or {}
        )

    def tool_format(self) -> ToolFormat:
        """How the model calls tools.

        :raises UnsupportedError: when it knows none, or its way is not known here.
        """
        if not self._tool_template.takes_tools:
            raise UnsupportedError(f"The chat template of {self._name} knows no tools; leave them out", param="tools")
        form = format_of(self._tool_template.source or "")
        if form is None:
            raise UnsupportedError(
                f"How {self._name} calls tools is not known here; known: {', '.join(KNOWN)}", param="tools"
            )
        return form.known_to(self._special_token_id)

    def _special_token_id(self, text: str) -> int | None:
        token_id = self._backend.token_to_id(text)
        return token_id if token_id in self.special_token_ids else None


def load_tokenizer(files: ModelFiles) -> Tokenizer:
    """Load the tokenizer that comes with a model.

    :raises StartupError: when there is none or it is damaged.
    :raises ConfigError: when it is of a kind that is not supported.
    """
    return _from_gguf(files) if files.format == "gguf" else _from_directory(files)


# --- a directory ----------------------------------------------------------------------------------------------------


def _from_directory(files: ModelFiles) -> Tokenizer:
    path = Path(files.path)
    file = path / "tokenizer.json"
    if not file.is_file():
        raise StartupError(f"The model {path} has no tokenizer.json")
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as e:  # what the library raises, it says with a bare Exception
        raise StartupError(f"{file} cannot be read: {e}") from e
    config = _read_optional(path / "tokenizer_config.json")
    special_tokens = {k: _content(v) for k, v in config.items() if k.endswith("_token") and isinstance(v, str | dict)}
    ids = _ids((_read_optional(path / "generation_config.json") or read_json(path / "config.json")).get("eos_token_id"))
    templates = _directory_templates(path, config)
    eos = backend.token_to_id(special_tokens["eos_token"]) if "eos_token" in special_tokens else None
    return Tokenizer(
        backend,
        name=files.served_name,
        eos_token_ids=ids | _ids(eos),
        special_tokens=special_tokens,
        chat_template=templates.get("default"),
        tool_template=templates.get("tool_use"),
    )


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _ids(value: int | list[int] | None) -> frozenset[int]:
    return frozenset([value] if isinstance(value, int) else value or [])


def _directory_templates(path: Path, config: dict[str, Any]) -> dict[str, str]:
    """A file of its own, or a field: one template, or several with names."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return {"default": file.read_text(encoding="utf-8")}
    found = config.get("chat_template") or _read_optional(path / "chat_template.json").get("chat_template")
    if isinstance(found, list):
        return {t["name"]: t["template"] for t in found}
    return {} if found is None else {"default": found}


# --- GGUF -----------------------------------------------------------------------------------------------------------


def _from_gguf(files: ModelFiles) -> Tokenizer:
    metadata = read_gguf_header(files.path).metadata
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    ids = {k: metadata.get(f"tokenizer.ggml.{k}_token_id") for k in ("bos", "eos", "eot", "eom", "unknown", "padding")}
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    return Tokenizer(
        build_gguf_tokenizer(metadata, files.path),
        name=files.served_name,
        eos_token_ids=_ids([i for k in ("eos", "eot", "eom") if (i := ids[k]) is not None]),
        special_tokens={name: tokens[i] for k, name in names.items() if (i := ids[k]) is not None and i < len(tokens)},
        chat_template=metadata.get("tokenizer.chat_template"),
        tool_template=metadata.get("tokenizer.chat_template.tool_use"),
    )
