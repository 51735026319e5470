"""Reads a cluster file: YAML with places -> sections made whole -> keys checked -> frozen Structs.

Every complaint names file, line and path and is raised before any process starts. What the keys mean is in `schema`;
what a server gets from them is decided in the supervisor's plan.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from trtdisagg.config import shape
from trtdisagg.config.checks import check
from trtdisagg.config.environment import with_variables
from trtdisagg.config.keys import Notice, Pruner
from trtdisagg.config.located import Located, Place, kind, read
from trtdisagg.config.overrides import Override, SetValue, compare, parse, put
from trtdisagg.config.schema import ClusterFile, ModelEntry
from trtdisagg.config.sections import SECTIONS, complete, of_sections
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import ConfigError

_SWEEP_KEYS = {"variants", "grid", "concurrencies", "request_rates"}
"""Of the other kind of file that is about clusters."""
_SUBMIT_KEYS = {"worker_config", "hardware"}
_WORDING = {
    "`": "",
    "Expected": "expected",
    "Object missing": "missing",
    " | null": "",
    "object": "mapping",
    "array": "list",
}
"""The converter's words, and ours."""


class Assembled(msgspec.Struct, kw_only=True, frozen=True):
    """What was written, in a file or elsewhere, once it holds together."""

    cluster: ClusterFile
    """With `model` and the two sections where the file has one entry of `models`; with several, these."""
    no_effect: list[Notice] = []
    """Keys and variables that were accepted and change nothing, with the reason; each once."""
    origins: dict[str, Place] = {}
    """Where each value of `cluster` was written, by path; of defaults there is none."""


class Loaded(Assembled, kw_only=True, frozen=True):
    """A cluster file that holds together."""

    path: Path
    """Absolute."""
    name: str
    """The cluster's: `name:`, or the name of the file's directory."""
    overrides: list[SetValue] = []
    """What was given beside the file, in that order."""

    @property
    def fingerprint(self) -> str:
        """The same for files that mean the same, with what was given beside them."""
        return hashlib.blake2b(msgspec.json.encode(self.cluster), digest_size=8).hexdigest()


def load(
    path: Path | str,
    overrides: Sequence[str] = (),
    *,
    only_routes: bool = False,
    elsewhere: bool = False,
    env: Mapping[str, str] = os.environ,
) -> Loaded:
    """Read a cluster file.

    :param overrides: `a.b=c` each, on top of what the file says; see `overrides`.
    :param only_routes: as if there were no `model:`: the servers of the file run already, whoever started them.
    :param elsewhere: servers are also found somewhere else, so the file may list none.
    :param env: variables in it stand for keys; see `environment`.
    :raises ConfigError: with file, line and path; see the module's text.
    """
    path = Path(path)
    root, given = read(path), parse(overrides)
    _refuse_other_kinds(path, root)
    made = assemble(root, path.parent, given, only_routes=only_routes, elsewhere=elsewhere, env=env)
    return Loaded(
        cluster=made.cluster,
        no_effect=made.no_effect,
        origins=made.origins,
        path=Path(os.path.abspath(path)),
        name=_name(made.cluster, path),
        overrides=compare(root, given),
    )


def _refuse_other_kinds(path: Path, root: Located) -> None:
    """
    :raises ConfigError: a file about clusters that is no cluster file.
    """
    if "cluster" in root.children and not _SWEEP_KEYS.isdisjoint(root.children):
        raise ConfigError(f"{path} says how to measure clusters: it is for `trtdisagg bench sweep`, not a cluster file")
    if root.children.keys() >= _SUBMIT_KEYS:
        raise ConfigError(
            f"{path} is for TensorRT-LLM's submit.py; docs/slurm.md says what its keys are called in a cluster file"
        )


def assemble(
    root: Located,
    directory: Path,
    overrides: Sequence[Override] = (),
    *,
    only_routes: bool = False,
    elsewhere: bool = False,
    env: Mapping[str, str] = os.environ,
) -> Assembled:
    """Make what was written, in a file or elsewhere, into a cluster.

    :param directory: what paths of worker files are relative to.
    :param env: variables in it stand for keys; see `environment`.
    :raises ConfigError: as `load`.
    """
    root = put(root, [override for override in overrides if not of_sections(override)])
    only_routes = only_routes or not _names_a_model(root)
    pruner = Pruner(only_routes=only_routes)
    whole = complete(
        root,
        worker_files=None if only_routes else directory,
        overrides=[override for override in overrides if of_sections(override)],
    )
    whole, overruled = (whole, []) if only_routes else with_variables(whole, env)
    root = pruner.prune(whole, ClusterFile)
    cluster = _convert(root)
    check(cluster, root, only_routes=only_routes, elsewhere=elsewhere)
    cluster = _flat(cluster)
    return Assembled(
        cluster=_that_run(cluster) if only_routes else cluster,
        no_effect=[*pruner.notices, *overruled],
        origins={path if cluster.models else path.removeprefix("models[0]."): at for path, at in root.places()},
    )


def _names_a_model(root: Located) -> bool:
    models = root.children.get("models")
    if models is None:
        return "model" in root.children
    entries = models.value if isinstance(models.value, list) else []
    return not entries or "model" in root.children or any("model" in entry.children for entry in entries)


def _that_run(cluster: ClusterFile) -> ClusterFile:
    """Only servers that run already: where a section lists none, they are found in a registry."""
    models = [replace(entry, model=None, **_empty_sections(entry)) for entry in cluster.models]
    return replace(cluster, model=None, models=models, **_empty_sections(cluster))


def _empty_sections(entry: ClusterFile | ModelEntry) -> dict[str, ServerSection]:
    sections: dict[str, ServerSection | None] = {name: getattr(entry, name) for name in SECTIONS}
    return {name: replace(s, num_instances=0) for name, s in sections.items() if s is not None and not s.urls}


def _flat(cluster: ClusterFile) -> ClusterFile:
    """One entry of `models` is the flat form written differently."""
    return of_one_model(cluster, cluster.models[0]) if len(cluster.models) == 1 else cluster


def of_one_model(cluster: ClusterFile, entry: ModelEntry) -> ClusterFile:
    """The flat form of a file, as if one of its `models` were all."""
    return replace(
        cluster,
        model=entry.model,
        served_model_name=entry.served_name,
        context_servers=entry.context_servers,
        generation_servers=entry.generation_servers,
        models=[],
    )


def _convert(root: Located) -> ClusterFile:
    """
    :raises ConfigError: a value has the wrong type or is out of range, or a key that must be there is missing.
    """
    try:
        return msgspec.convert(root.plain(), ClusterFile)
    except msgspec.ValidationError as e:
        message, _, path = str(e).partition(" - at `$")
        raise _explain(root, path.rstrip("`").lstrip("."), message) from None


def _explain(root: Located, path: str, message: str) -> ConfigError:
    """The converter's complaint in our form, with the line, the value and, where it is one of a few words, those."""
    if path.endswith("[...]"):
        path = _culprit(root, path.removesuffix("[...]"), message)
    found = root.at(path)
    for theirs, ours in _WORDING.items():
        message = message.replace(theirs, ours)
    words = shape.words_of(shape.type_of(ClusterFile, path))
    if message.startswith("Invalid enum value") or (words and "got" in message):
        message = f"expected one of {', '.join(words)}, got {found.plain()!r}"
    elif message.startswith("expected") and not isinstance(found.value, dict | list | None):
        message = f"{message.partition(', got')[0]}, got {kind(found.value)} {found.plain()!r}"
        message += "; put it in quotes" if message.startswith("expected str,") else ""
    return ConfigError(f"{found.place.naming(path or 'the file')}: {message}")


def _culprit(root: Located, path: str, message: str) -> str:
    """The path of the value that is meant where the converter says only that one in a mapping is wrong."""
    got = re.search(r"got `(\w+)`", message)
    for key, child in root.at(path).children.items():
        if got and kind(child.value) == got[1]:
            return f"{path}.{key}"
    return path


def _name(cluster: ClusterFile, path: Path) -> str:
    """A name that can be part of a path: of a directory's name, what is odd becomes a dash."""
    directory = Path(os.path.abspath(path)).parent.name
    return cluster.name or re.sub(r"[^A-Za-z0-9._-]+", "-", directory).strip(".-") or "cluster"
