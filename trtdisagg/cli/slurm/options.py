"""The keys of `slurm:` as options of commands, made from the schema: `--qos high` is `--set slurm.qos=high`."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterator
from typing import Any

import click
import msgspec

from trtdisagg.config import docs
from trtdisagg.config.slurm_keys import ContainerConfig, SlurmConfig


class _Key(msgspec.Struct, frozen=True):
    path: str
    """As in the cluster file: `slurm.container.image`."""
    doc: str
    kind: Any
    """str, int, list or dict."""
    takes_int: bool

    @property
    def name(self) -> str:
        """Of the parameter."""
        return self.path.removeprefix("slurm.").replace(".", "_")

    def option(self) -> Callable[..., Any]:
        help_text, _, _ = self.doc.partition(". ")
        return click.option(
            f"--{self.name.replace('_', '-')}",
            self.name,
            multiple=self.kind in (list, dict),
            metavar="NAME=VALUE" if self.kind is dict else "N" if self.takes_int else "TEXT",
            help=f"{help_text.rstrip('.')}.",
        )

    def overrides(self, given: Any) -> Iterator[str]:
        """As `--set` takes them."""
        if given is None or given == ():
            return
        if self.kind is dict:
            for text in given:
                name, equals, value = text.partition("=")
                if not equals:
                    raise click.BadParameter(f"{text!r}: expected NAME=VALUE", param_hint=f"--{self.name}")
                yield f"{self.path}.{name}={_yaml(value)}"
        elif self.takes_int and given.isdecimal():
            yield f"{self.path}={given}"
        else:
            yield f"{self.path}={_yaml(list(given) if self.kind is list else given)}"


def _yaml(value: str | list[str]) -> str:
    """What YAML takes for just that: JSON is part of it."""
    return msgspec.json.encode(value).decode()


@functools.cache
def _keys() -> list[_Key]:
    return [*_of(SlurmConfig, "slurm."), *_of(ContainerConfig, "slurm.container.")]


def _of(struct: type[msgspec.Struct], path: str) -> Iterator[_Key]:
    explained = {key.name: key.doc for key in docs.keys(struct)}
    for field in msgspec.structs.fields(struct):
        kinds = {typing.get_origin(kind) or kind for kind in _alternatives(field.type)}
        if ContainerConfig not in kinds:
            kind = next(k for k in (list, dict, int, str) if k in kinds)
            yield _Key(path + field.name, explained[field.name], kind, int in kinds)


def _alternatives(kind: Any) -> Iterator[Any]:
    """The types in a union, without what is said of them."""
    if typing.get_origin(kind) is typing.Annotated:
        yield from _alternatives(typing.get_args(kind)[0])
    elif typing.get_origin(kind) in (list, dict) or not typing.get_args(kind):
        yield kind
    else:
        for each in typing.get_args(kind):
            yield from _alternatives(each)


def slurm_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """An option for each key of `slurm:`; the command gets them by name, see `overrides_of`."""
    for key in reversed(_keys()):
        command = key.option()(command)
    return command


def overrides_of(given: dict[str, Any]) -> tuple[str, ...]:
    """
    :param given: by name of the parameter.
    :returns: as `--set` takes them.
    """
    return tuple(text for key in _keys() for text in key.overrides(given[key.name]))
