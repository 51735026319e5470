"""What was measured of a model on a machine: a file that can be measured where the GPUs are and used elsewhere.

Only what was seen; how it is read is `cost`'s. Times are in seconds.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from trtdisagg.errors import ConfigError

PROFILE_VERSION = 1


class Prefill(msgspec.Struct, frozen=True):
    """A prompt, alone on the server: from its first byte to the first token of the answer."""

    num_tokens: int
    seconds: float


class Decode(msgspec.Struct, frozen=True):
    """Streams that run at once: between two tokens of each."""

    num_streams: int
    num_tokens: float
    """That each has behind it, on average."""
    seconds: float


class Mixed(msgspec.Struct, frozen=True):
    """Streams that run while a prompt is computed in one step with theirs: between two tokens, in that step."""

    num_streams: int
    num_tokens: float
    num_prompt_tokens: int
    seconds: float


class ServerProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A server of some size; what it was started as does not matter."""

    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    num_gpus: int = 0
    num_cores: int = 0
    """Without GPUs."""
    prefills: list[Prefill]
    decodes: list[Decode]
    mixed: list[Mixed] = []

    @property
    def num_units(self) -> int:
        """GPUs, or without any cores."""
        return self.num_gpus or self.num_cores

    @property
    def words(self) -> str:
        """`TP 2 on 2 GPUs`, `1 core`."""
        unit = f"{self.num_gpus} GPU" if self.num_gpus else f"{self.num_cores} core"
        ranks = f"TP {self.tensor_parallel_size}" * (self.tensor_parallel_size > 1)
        ranks += f" PP {self.pipeline_parallel_size}" * (self.pipeline_parallel_size > 1)
        return f"{ranks.strip()} on {unit}".removeprefix(" on ") + "s" * (self.num_units > 1)


class Handover(msgspec.Struct, frozen=True):
    """From a client's first token to its second, less one step of the generation server."""

    num_tokens: int
    seconds: float


class Neighbours(msgspec.Struct, frozen=True):
    """How many times as long something takes while another server of the machine computes all the time.

    On a CPU servers have cores of their own and share the memory's bandwidth; GPUs share nothing.
    """

    prefill_by_prefill: float = 1.0
    prefill_by_decode: float = 1.0
    decode_by_prefill: float = 1.0
    decode_by_decode: float = 1.0


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model on one machine."""

    version: int = PROFILE_VERSION
    date: str
    """`2026-11-22T14:15:00`, local time."""
    model: str
    machine: str
    """For people."""
    max_seq_len: int
    num_kv_tokens: dict[str, int]
    """That the KV cache of a server holds, by role: of the servers that were measured."""
    servers: dict[str, ServerProfile]
    """`context`, `generation`, and without GPUs `aggregated`: one server with the cores of both."""
    handovers: list[Handover]
    proxy_s: float
    """That the way through the proxy adds to the time to first token."""
    neighbours: Neighbours = Neighbours()
    transport: str = ""
    """That KV moved with."""


def read_profile(file: Path) -> Profile:
    """
    :raises ConfigError: it is none, or of another version.
    """
    try:
        data = file.read_bytes()
    except OSError as e:
        raise ConfigError(f"--profile {file} cannot be read: {e.strerror or e}") from e
    try:
        version = msgspec.json.decode(data, type=_Version).version
        if version != PROFILE_VERSION:
            raise ConfigError(
                f"--profile {file} has version {version} and this program reads {PROFILE_VERSION}: measure again"
            )
        return msgspec.json.decode(data, type=Profile)
    except msgspec.DecodeError as e:
        raise ConfigError(f"--profile {file} is no profile: {e}") from None


class _Version(msgspec.Struct):
    version: int
