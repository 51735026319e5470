"""Options as TensorRT-LLM's commands have them: with either spelling, and some that change nothing here.

Knows how such options are taken, not which there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from trtdisagg.cli.terminal import say

UNDERSCORES_TOO = {"token_normalize_func": lambda token: token.replace("_", "-")}
"""Of a command: `--server_role` is `--server-role`; so are the words of a choice."""


def no_effect(*names: str, because: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option that help does not show; `because` completes the sentence 'no effect here, because ...'."""

    def tell(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            say(f"{names[-1]}: no effect here, because {because}")

    return click.option(*names, hidden=True, expose_value=False, callback=tell)
