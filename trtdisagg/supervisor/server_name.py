"""What a server's name says: `context-0`, with several models `large.context-0`. Pure."""

from __future__ import annotations

from typing import NamedTuple


class ServerName(NamedTuple):
    model: str
    """Empty: there is only one."""
    role: str
    """That it was started in; whatever is no server (`proxy`) has its name here."""
    number: int

    @property
    def group(self) -> str:
        return f"{self.model}.{self.role}" if self.model else self.role


def parse_name(name: str) -> ServerName:
    group, _, number = name.rpartition("-")
    if not number.isdigit():
        group, number = name, "0"
    model, _, role = group.rpartition(".")
    return ServerName(model, role, int(number))
