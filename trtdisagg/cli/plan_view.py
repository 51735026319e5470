"""The plan of a cluster as a table: a pure function."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trtdisagg.cli.views import ROLE_STYLES, place_words
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.server_plan import ChildPlan


def plan_view(plan: Plan) -> RenderableType:
    """What `up` would start, and whom it would route to."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("name", "role", "model", "address", "on", "threads", "KV cache", "command"):
        table.add_column(heading, overflow="fold")
    for child in plan.children:
        table.add_row(Text(child.name, ROLE_STYLES[child.role]), *_child_cells(child))
    for server in plan.upstream:
        name = Text(server.name, ROLE_STYLES[server.role])
        table.add_row(name, server.role, server.model or "-", server.url, "-", "-", "-", "(runs already)")
    return Group(Text(plan.cluster, "bold"), table)


def _child_cells(child: ChildPlan) -> Iterator[str]:
    spec = child.spec
    yield child.role
    yield child.model or "-"
    yield child.url.removesuffix(":0") + (" any port" if spec.port == 0 else "")
    yield place_words(child.gpus, child.cores)
    yield str(spec.num_threads) if isinstance(spec, EngineSpec) else "-"
    yield _kv_words(spec, child.pool_bytes) if isinstance(spec, EngineSpec) else "-"
    yield shlex.join("python" if word == sys.executable else word for word in child.argv)


def _kv_words(spec: EngineSpec, pool_bytes: int | None) -> str:
    words = f"{spec.num_blocks} blocks of {spec.tokens_per_block}"
    return f"{words}, {size(pool_bytes)}" if pool_bytes is not None else words


def size(num_bytes: int) -> str:
    """`720 KiB`, `2.0 GiB`."""
    value, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
