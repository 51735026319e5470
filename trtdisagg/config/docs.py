"""Every key of the cluster file with its type, default and meaning, as Markdown: `python -m trtdisagg.config.docs`.

All of it is read from the source of `schema` and of its sections, where a key's documentation is the string below it,
and from the table in `upstream`: nothing is written twice.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from typing import get_args

import msgspec

from trtdisagg.config import key_types, proxy_keys, schema, server_keys, slurm_keys, supervisor_keys
from trtdisagg.config.upstream import TABLE, NoEffect

_HEAD = """\
# The cluster file

Made by `python -m trtdisagg.config.docs`; do not edit.

One YAML file describes a cluster. It is a superset of TensorRT-LLM's `disagg_config.yaml`: that file is a valid cluster
file as it stands. A key that nobody knows, a key that stands twice and a value of the wrong type are errors that name
file, line and path, before any process starts; `trtdisagg check FILE` looks for them and prints the plan.

A key of a server section that stands at the top level counts for both sections; where a section says otherwise, that is
an error. Where `model` stands and neither section does, one server of each is started.
"""

_SECTIONS: dict[type[msgspec.Struct], str] = {
    schema.ClusterFile: "Top level",
    server_keys.ServerSection: "`context_servers`, `generation_servers`",
    server_keys.KvCacheConfig: "`kv_cache_config`, in a server section",
    server_keys.SchedulerConfig: "`scheduler_config`, in a server section",
    server_keys.CacheTransceiverConfig: "`cache_transceiver_config`, in a server section",
    server_keys.RouterConfig: "`router`, in a server section",
    schema.ModelEntry: "`models`, each entry",
    proxy_keys.ConditionalDisaggConfig: "`conditional_disagg_config`",
    supervisor_keys.SupervisionConfig: "`supervision`",
    supervisor_keys.ProfileConfig: "`profile`",
    slurm_keys.SlurmConfig: "`slurm`",
    slurm_keys.ContainerConfig: "`container`, in `slurm`",
    supervisor_keys.DisaggCluster: "`disagg_cluster`",
    supervisor_keys.MinimalInstances: "`minimal_instances`, in `disagg_cluster`",
    proxy_keys.ProcessingConfig: "`processing`",
    proxy_keys.ProxyConfig: "`proxy`",
    proxy_keys.BreakerConfig: "`breaker`, in `proxy`",
    proxy_keys.TlsConfig: "`tls`, in `proxy`",
    proxy_keys.OtlpConfig: "`otlp_config`",
}


class Key(msgspec.Struct, frozen=True):
    """One key of a mapping."""

    name: str
    type: str
    default: str | None
    """As written in the schema; None: the key must be there."""
    doc: str


def keys(struct: type[msgspec.Struct]) -> list[Key]:
    """The keys of a mapping of the cluster file, in the order of the schema."""
    tree = ast.parse(inspect.getsource(struct)).body[0]
    assert isinstance(tree, ast.ClassDef)
    return list(_keys(tree.body))


def _keys(body: list[ast.stmt]) -> Iterator[Key]:
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign):
            doc = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            default = ast.unparse(statement.value) if statement.value else None
            yield Key(
                name=ast.unparse(statement.target),
                type=_type(statement.annotation),
                default=default,
                doc=" ".join(str(doc).split()),
            )


def _type(annotation: ast.expr) -> str:
    """A type in words: `str | None` is a str, a Struct is a mapping."""
    if isinstance(annotation, ast.BinOp):
        sides = [_type(side) for side in (annotation.left, annotation.right)]
        return " or ".join(side for side in sides if side != "None")
    if isinstance(annotation, ast.Subscript):
        return _generic(ast.unparse(annotation.value), annotation.slice)
    name = ast.unparse(annotation)
    return "mapping" if name in _MAPPINGS else _WORDS.get(name, name)


_MAPPINGS = {section.__name__ for section in key_types.Section.__subclasses__()}


_WORDS = {
    "Count": "int >= 1",
    "CountOrZero": "int >= 0",
    "Fraction": "number in (0, 1]",
    "Seconds": "seconds > 0",
    "Port": "port",
    "Size": "bytes or size such as 512MB",
    "float": "number",
    "Backend": " or ".join(get_args(key_types.Backend)),
}


def _generic(name: str, inner: ast.expr) -> str:
    args = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if name == "Literal":
        return " or ".join(str(ast.literal_eval(arg)) for arg in args)
    if name == "Annotated":
        bounds = [f"{_BOUNDS[k.arg or '']} {ast.unparse(k.value)}" for k in getattr(args[1], "keywords", [])]
        return " ".join([_type(args[0]), *bounds])
    if name == "list":
        return f"list of {_type(args[0])}"
    return f"mapping of {_type(args[0])} to {_type(args[1])}"


_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def markdown() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(struct, title) for struct, title in _SECTIONS.items()), *_upstream()])


def _section(struct: type[msgspec.Struct], title: str) -> str:
    lines = [f"## {title}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{k.name}` | {k.type} | {_default(k)} | {k.doc} |" for k in keys(struct)]
    return "\n".join([*lines, ""])


def _default(key: Key) -> str:
    if key.default is None:
        return "(needed)"
    if key.default == "None" or key.default.endswith("()"):
        return ""
    return f"`{key.default}`"


def _upstream() -> Iterator[str]:
    yield "## Keys of TensorRT-LLM that have no effect here\n\n| key | because |\n|---|---|"
    for struct, entries in TABLE.items():
        for key, entry in sorted(entries.items()):
            if isinstance(entry, NoEffect):
                yield f"| {_where(struct)}`{key}` | {entry.because} |"
    yield "\n## What TensorRT-LLM has and is not there yet\n"
    yield "A file that asks for one of these is refused; values that ask for nothing (`false`, `1`) are accepted.\n"
    yield "| key | asks for |\n|---|---|"
    for struct, entries in TABLE.items():
        for key, entry in sorted(entries.items()):
            if not isinstance(entry, NoEffect):
                yield f"| {_where(struct)}`{key}` | {entry.what} |"
    yield ""


def _where(struct: type[msgspec.Struct]) -> str:
    names = {
        server_keys.KvCacheConfig: "kv_cache_config",
        server_keys.CacheTransceiverConfig: "cache_transceiver_config",
        server_keys.RouterConfig: "router",
    }
    return f"`{names[struct]}`: " if struct in names else ""


if __name__ == "__main__":
    sys.stdout.write(markdown())
