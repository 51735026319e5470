"""What is asked, as the bytes of a request."""

from __future__ import annotations

from typing import Any

import msgspec

from trtdisagg.bench.serve.asked import Asked, Message
from trtdisagg.bench.serve.load import Endpoint, Load
from trtdisagg.errors import ConfigError

PATHS: dict[Endpoint, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}

_encode = msgspec.json.Encoder().encode


class Bodies:
    """Makes the bodies of a load's requests.

    :param stream_options: those that the endpoint takes; None: none.
    """

    def __init__(self, load: Load, model: str, stream_options: dict[str, bool] | None) -> None:
        self._endpoint = load.endpoint
        self._common: dict[str, Any] = {"model": model, "stream": load.is_streamed, **load.extra_body}
        if load.ignore_eos:
            self._common["ignore_eos"] = True
        if stream_options is not None:
            self._common["stream_options"] = stream_options

    def encode(self, asked: Asked) -> bytes:
        """
        :raises ConfigError: the endpoint does not take such a prompt.
        """
        name, value = _prompt(self._endpoint, asked.prompt)
        return _encode({name: value, "max_tokens": asked.max_tokens, **self._common})


def _prompt(endpoint: Endpoint, prompt: str | tuple[int, ...] | tuple[Message, ...]) -> tuple[str, Any]:
    is_chat = not isinstance(prompt, str) and any(isinstance(part, Message) for part in prompt)
    if endpoint == "completions":
        if is_chat:
            raise ConfigError("a chat cannot be asked of /v1/completions: use --endpoint chat")
        return "prompt", prompt
    if isinstance(prompt, str):
        return "messages", [Message(role="user", content=prompt)]
    if not is_chat:
        raise ConfigError("token ids cannot be asked of /v1/chat/completions: use --endpoint completions")
    return "messages", prompt
