"""Imports point down only; the daemon half and the engine half never meet; torch stays in the engine half."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trtdisagg"

_GROUND = {"errors", "files", "net", "protocol"}
_SHARED = {"text", "config", *_GROUND}
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "net": {"errors"},
    "protocol": {"errors"},
    "config": _GROUND,
    "text": {"config", *_GROUND},
    "registry": _SHARED,
    "proxy": {"registry", *_SHARED},
    "supervisor": {"registry", *_SHARED},
    "bench": {"_load", "_sim", *_SHARED},
    "slurm": {"supervisor", "registry", *_SHARED},
    "cli": {"supervisor", "proxy", "registry", "bench", "slurm", *_SHARED},
    "cache": {"_csrc", *_GROUND},
    "engine": {"cache", "_csrc", *_SHARED},
    "api": {"engine", "protocol"},
    "__main__": {"cli"},
}
"""Room: the rooms it may import from."""

TORCH_FREE = (
    "errors",
    "files",
    "net",
    "protocol",
    "config",
    "text",
    "registry",
    "proxy",
    "supervisor",
    "bench",
    "slurm",
    "cli",
    "__main__",
)


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    """The part of the package a module is in; of the package itself the empty word."""
    return [*module.split("."), ""][1]


def imports(module: str) -> Iterator[str]:
    """Every module that this one imports, at its top or later: our own by full name, others by their first word."""
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (_known(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            yield from (_known(f"{node.module}.{alias.name}", node.module) for alias in node.names)


def _known(name: str, package: str | None = None) -> str:
    if not name.startswith("trtdisagg"):
        return name.split(".", maxsplit=1)[0]
    return name if name in FILES or package is None else package


GRAPH = {module: set(imports(module)) for module in FILES}


def test_every_part_of_the_package_is_in_the_table() -> None:
    assert {room(module) for module in FILES} - {""} <= BELOW.keys()


def test_the_table_itself_points_down_only() -> None:
    graphlib.TopologicalSorter(BELOW).prepare()


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down(module: str) -> None:
    for imported in GRAPH[module]:
        if imported.startswith("trtdisagg") and room(imported) not in ("", room(module)):
            assert room(imported) in BELOW[room(module)], f"{module} imports {imported}"


def test_no_cycle() -> None:
    graph = {module: {name for name in names if name in FILES} - {module} for module, names in GRAPH.items()}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", [module for module in FILES if room(module) in TORCH_FREE])
def test_no_torch_in_the_daemon_half(module: str) -> None:
    assert not GRAPH[module] & {"torch", "nixl", "safetensors", "transformers"}


def test_no_torch_through_others() -> None:
    """What the libraries of the daemon half and of the text room import themselves."""
    modules = [m for m in FILES if room(m) in TORCH_FREE and room(m) != "__main__"]
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    loaded = json.loads(out.stdout)
    assert set(modules) <= set(loaded)
    assert not {"torch", "nixl", "transformers"} & set(loaded)


def test_a_wrong_import_would_be_seen() -> None:
    """The checks above look at what they should: a known edge of each kind is in the graph."""
    assert "trtdisagg.config.shape" in GRAPH["trtdisagg.config.load"]
    assert "trtdisagg.errors" in GRAPH["trtdisagg.config.load"]
    assert "yaml" in GRAPH["trtdisagg.config.located"]
