"""What is offered for words that stand for servers, roles and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem

from trtdisagg.cli import names
from trtdisagg.cli.names import complete_role_count, complete_server_or_file
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.place import Place

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

CONTEXT = click.Context(click.Command("any"))
WORDS = click.Argument(["words"])


@pytest.fixture(autouse=True)
def _clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that run, with a server of the same name."""
    places = [Place(tmp_path / name, tmp_path / name / "logs") for name in ("one-1", "two-2")]
    for place, own in zip(places, ("context-1", "big.generation-0"), strict=True):
        place.run_dir.mkdir()
        for name in ("context-0", own):
            place.spec_file(name).touch()
        place.secret_file.touch()
    monkeypatch.setattr(rundir, "find_running", lambda: places)


def test_servers_of_all_clusters_each_name_once() -> None:
    offered = [item.value for item in complete_server_or_file(CONTEXT, WORDS, "")]
    assert offered == ["", "big.generation-0", "context-0", "context-1"]


@pytest.mark.parametrize(
    ("complete", "incomplete", "offered"),
    [
        (complete_server_or_file, "context-1", ["", "context-1"]),
        (complete_server_or_file, "x", [""]),
        (complete_server_or_file, "big", ["", "big.generation-0"]),
        (complete_role_count, "", ["", "big.context=", "big.generation=", "context=", "generation="]),
        (complete_role_count, "gen", ["", "generation="]),
        (names.complete_file, "gen", [""]),
    ],
)
def test_what_is_offered(complete: Completer, incomplete: str, offered: list[str]) -> None:
    items = complete(CONTEXT, WORDS, incomplete)
    assert [item.value for item in items] == offered
    assert [item.type for item in items] == ["file" if item == "" else "plain" for item in offered]
