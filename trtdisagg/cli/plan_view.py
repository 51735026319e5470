"""The plan of a cluster, as a table and as JSON: pure functions."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trtdisagg.cli.transfer_view import transfer_settings
from trtdisagg.cli.values import ROLE_STYLES, parallel_words, place_words
from trtdisagg.config.load import Loaded
from trtdisagg.config.overrides import SetValue
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.plan import Plan

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|PRIVATE|(^|_)(API_?|ACCESS_?)?KEY($|_)", re.IGNORECASE)
"""Environment variables whose values are nobody's business."""


def plan_view(plan: Plan, overrides: Sequence[SetValue] = ()) -> RenderableType:
    """What `up` would start, and whom it would route to.

    :param overrides: what was given beside the file.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    are_divided = any(child.num_ranks > 1 for child in plan.children)
    of_others = any(child.argv[:2] != [sys.executable, "-m"] for child in plan.children)
    ranks, commands = ["ranks"] * are_divided, ["command"] * of_others
    for heading in ("name", "role", "model", "address", *ranks, "on", "threads", "KV cache", *commands):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("name", "role"))
    for child in plan.children:
        command = [shlex.join("python" if word == sys.executable else word for word in child.argv)] * of_others
        name = Text(child.name, ROLE_STYLES[child.role])
        table.add_row(name, *_child_cells(child, with_ranks=are_divided), *command)
    for server in plan.upstream:
        name = Text(server.name, ROLE_STYLES[server.role])
        dashes = ["-"] * are_divided
        table.add_row(name, server.role, server.model or "-", server.url, *dashes, "(runs already)", "-", "-")
    return Group(Text(plan.cluster, "bold"), table, *map(_override_line, overrides))


def plan_report(plan: Plan, loaded: Loaded) -> str:
    """All of a plan as JSON, without secrets; what was given beside the file is in `set`."""
    report: dict[str, Any] = msgspec.to_builtins(plan)
    for child in [*report["servers"], *([report["proxy"]] if report["proxy"] else [])]:
        child["env"] = _without_secrets(child["env"])
    report["fingerprint"] = loaded.fingerprint
    report["set"] = [
        {**msgspec.to_builtins(o), **{key: "***" for key in ("value", "was") if _SECRET.search(o.path)}}
        for o in loaded.overrides
    ]
    report["transfer"] = msgspec.to_builtins(transfer_settings(loaded))
    report["no_effect"] = [str(notice) for notice in loaded.no_effect]
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def _without_secrets(env: Mapping[str, str]) -> dict[str, str]:
    return {name: "***" if _SECRET.search(name) else value for name, value in env.items()}


def _override_line(override: SetValue) -> Text:
    """`--set port = 9000 (the file: 8000)`"""
    value, was = (_short(v) for v in (override.value, override.was))
    if _SECRET.search(override.path):
        value = was = "***"
    said = "the file does not say" if override.was is msgspec.UNSET else f"the file: {was}"
    return Text.assemble(("--set ", "dim"), f"{override.path} = {value} ", (f"({said})", "dim"))


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode() if value is not msgspec.UNSET else ""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _child_cells(child: ChildPlan, *, with_ranks: bool) -> Iterator[str]:
    spec = child.spec
    yield child.role
    yield child.model or "-"
    yield child.url.removesuffix(":0") + (" any port" if spec.port == 0 else "")
    if with_ranks:
        yield parallel_words(spec.parallel) if isinstance(spec, EngineSpec) else "-"
    yield place_words(child.gpus, child.cores)
    yield _each(str(spec.num_threads), child.num_ranks) if isinstance(spec, EngineSpec) else "-"
    yield _kv_words(spec, child) if isinstance(spec, EngineSpec) else "-"


def _kv_words(spec: EngineSpec, child: ChildPlan) -> str:
    words = [f"{spec.num_blocks} blocks of {spec.tokens_per_block} tokens"]
    if child.pool_bytes is not None:
        # Ranks of uneven stages have pools of several sizes: then their sum says more.
        is_even = len(set(child.rank_pools)) == 1
        words += [_each(size(child.rank_pools[0]), child.num_ranks) if is_even else f"{size(child.pool_bytes)} in all"]
    words += [] if spec.enable_block_reuse else ["no reuse"]
    return ", ".join([*words, spec.scheduler_policy.replace("_", " ")])


def _each(words: str, num_ranks: int) -> str:
    """`4 x 180 MiB`"""
    return words if num_ranks == 1 else f"{num_ranks} x {words}"


def size(num_bytes: int) -> str:
    """`720 KiB`, `2.0 GiB`."""
    value, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
