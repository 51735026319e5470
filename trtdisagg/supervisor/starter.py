"""A first cluster file for a machine and a model, with every key explained: a pure function.

It is made to be read and changed, so it says what may be worth changing, and why.
"""

from __future__ import annotations

import json
import math
import re

import yaml

from trtdisagg.config.sizes import GIB
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.starter_sizes import DTYPE, Sizes, choose_sizes
from trtdisagg.text.dimensions import ModelDimensions


def starter_file(host: Host, model: str, dimensions: ModelDimensions, *, file: str, port: int) -> str:
    """The text of a cluster file.

    :param model: as the file is to name it.
    :param file: how commands will name the file.
    :param port: one that is free.
    :raises StartupError: when the machine cannot carry a cluster of this model.
    """
    sizes = choose_sizes(host, dimensions)
    return "\n".join(
        [
            _HEAD.format(machine=machine_words(host), file=file),
            _CLIENTS.format(model=_word(model), port=port),
            _sizes_text(sizes, dimensions),
            _SERVERS.format(
                num_context=sizes.num_context,
                num_generation=sizes.num_generation,
                pins=_pins(host),
                shared=_shared_gpu(host),
            ),
            _SUPERVISION,
        ]
    )


def machine_words(host: Host) -> str:
    """`2 CPU cores, 20 GiB of free memory, no GPU`"""
    names = sorted({gpu.name for gpu in host.gpus})
    gpus = f"{len(host.gpus)} GPU{'s' * (len(host.gpus) > 1)} ({', '.join(names)})" if names else "no GPU"
    cores = f"{len(host.cores)} CPU core{'s' * (len(host.cores) > 1)}"
    return f"{cores}, {host.memory_bytes / GIB:.0f} GiB of free memory, {gpus}"


def _word(text: str) -> str:
    """A YAML scalar that is read as this very text."""
    if re.fullmatch(r"[\w./~-]+", text, re.ASCII) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf).rstrip("\n")


def _pins(host: Host) -> str:
    """Where context servers run: as a comment what could be said, unless it has to be said."""
    if len(host.gpus) == 1:
        return _shared_gpu(host)
    ids = [_gpu(gpu.id) for gpu in host.gpus] or host.cores
    key, what = ("gpus", "GPUs") if host.gpus else ("cores", "CPU cores")
    half = json.dumps(ids[: max(1, len(ids) // 2)])
    return f"\n  # The {what} that these servers divide; without it, all servers divide all.\n  # {key}: {half}"


def _shared_gpu(host: Host) -> str:
    """Servers share a GPU only where the file says so; with a single one they must."""
    if len(host.gpus) != 1:
        return ""
    return f"\n  # Both kinds of servers share the only GPU.\n  gpus: {json.dumps([_gpu(host.gpus[0].id)])}"


def _gpu(gpu_id: str) -> str | int:
    return int(gpu_id) if gpu_id.isdigit() else gpu_id


_HEAD = """\
# A cluster for this machine: {machine}.
#
#   trtdisagg check {file}     what would run where
#   trtdisagg doctor {file}    whether this machine can carry it
#   trtdisagg up {file}        run it; Ctrl-C takes it down in order
#
# A value can be tried without touching this file: trtdisagg check {file} --set port=9000
# docs/cluster-file.md has every key; one that nobody knows is an error.
"""

_CLIENTS = """\
# Names the cluster to `trtdisagg status`, `logs` and `down`; without it, the name of this directory does.
# name: my-cluster

# What is served: an alias (smollm2-135m-instruct), a hub id (organization/name), a directory with safetensors, or a
# .gguf file.
model: {model}

# Where clients reach the cluster, by OpenAI's API. `localhost`: only from this machine; 0.0.0.0: from everywhere.
hostname: localhost
port: {port}
"""

_LENGTH = """\
# Prompt and answer of one request together, in tokens. The model was trained for {trained}.
# (What stands here counts for both kinds of servers; it could also stand in their sections.)
max_seq_len: {max_seq_len}
"""

_POOL = """
kv_cache_config:
  # Size of the KV cache of each server, in tokens: {size:.1f} GiB. More lets more requests run at once.
  max_tokens: {max_tokens}
"""

_GPU_POOL = """
kv_cache_config:
  # Share of a GPU's free memory, less the weights, for the KV cache of the servers on it.
  free_gpu_memory_fraction: 0.9
"""

_SERVERS = """\
# Context servers compute prompts. More of them when the first token of an answer comes late.
context_servers:
  num_instances: {num_context}{pins}

# Generation servers take prompts over and compute the answers. More of them when tokens come slowly, or requests wait.
generation_servers:
  num_instances: {num_generation}{shared}
"""

_SUPERVISION = """\
supervision:
  # Deadline for what runs when a server is asked to end (`down`, `drain`, Ctrl-C); then it is stopped.
  drain_timeout_s: 30
  # Deadline from the start of a server until it can serve. A large model on a slow disk needs more.
  start_timeout_s: 300
"""


def _sizes_text(sizes: Sizes, model: ModelDimensions) -> str:
    length = _LENGTH.format(trained=model.max_positions, max_seq_len=sizes.max_seq_len)
    if sizes.max_tokens is None:
        return length + _GPU_POOL
    size = sizes.max_tokens * model.kv_bytes_per_token(DTYPE) / GIB
    return length + _POOL.format(size=size, max_tokens=sizes.max_tokens)
