"""How far a load is: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trtdisagg.bench.serve import outcome


@contextlib.contextmanager
def showing() -> Iterator[outcome.Watch]:
    """A bar for as long as the block runs; it is drawn by whoever tells how far it is, not by a thread of its own."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    words = TextColumn("{task.fields[words]}")
    with Progress(*columns, words, console=console, auto_refresh=False, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, words="")

        def watch(now: outcome.Progress) -> None:
            bar.update(
                task,
                description="warming up" if now.is_warmup else "asking",
                completed=now.num_ended,
                total=now.num_prompts,
                words=_words(now),
            )
            bar.refresh()

        yield watch


def _words(now: outcome.Progress) -> str:
    failed = f", [red]{now.num_failed} failed[/]" if now.num_failed else ""
    return f"{now.num_begun - now.num_ended} at once, {now.num_tokens:,} tokens{failed}"
