"""Options of TensorRT-LLM's commands that change nothing here: taken and said, as such keys of its files are.

Knows how that is said, not which options there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from trtdisagg.cli.terminal import say


def no_effect(*names: str, because: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option that help does not show; `because` completes the sentence 'no effect here, because ...'."""

    def tell(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            say(f"{names[-1]}: no effect here, because {because}")

    return click.option(*names, hidden=True, expose_value=False, callback=tell)
