"""Values in few characters, and the colours of words: what every table and line is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.text import Text

from trtdisagg.protocol.parallel import Parallel
from trtdisagg.supervisor.server_name import parse_name

STATE_STYLES = {
    "ready": "green",
    "starting": "yellow",
    "loading": "yellow",
    "degraded": "yellow",
    "stalled": "red",
    "backoff": "red",
    "failed": "bold red",
    "draining": "cyan",
    "stopping": "cyan",
    "stopped": "dim",
}
ROLE_STYLES = {"context": "magenta", "generation": "blue", "both": "blue", "proxy": "cyan"}

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"
_HIGH, _FULL = 0.75, 0.95


def name_style(name: str) -> str | None:
    """The colour of a server's role, by its name; None: it is none of the four."""
    return ROLE_STYLES.get(parse_name(name).role)


def node_words(nodes: list[str]) -> str:
    """The nodes of a server's ranks: the first, and how many others there are."""
    different = list(dict.fromkeys(nodes))
    return different[0] + f" +{len(different) - 1}" * (len(different) > 1) if different else "-"


def place_words(gpus: list[str], cores: list[int]) -> str:
    """`gpu 0,1`, `cpu 0-3,8`, or `-` for a process that is not pinned."""
    if gpus:
        return f"gpu {','.join(gpus)}"
    return f"cpu {ranges(cores)}" if cores else "-"


def parallel_words(parallel: Parallel) -> str:
    """`1`, or how a server of several ranks divides its model: `tp2 pp2 = 4 ranks`."""
    words = [
        f"{kind}{size}"
        for kind, size in (
            ("dp" if parallel.attention_dp else "tp", parallel.tp_size),
            ("ep", parallel.moe_ep_size),
            ("pp", parallel.pp_size),
        )
        if size > 1
    ]
    return f"{' '.join(words)} = {parallel.num_ranks} ranks" if words else "1"


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,8` for 0, 1, 2, 3, 8."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def duration(seconds: float) -> str:
    """`7s`, `3m`, `5h`, `12d`: the largest unit that is not zero."""
    for limit, divisor, unit in ((60, 1, "s"), (3600, 60, "m"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds / divisor)}{unit}"
    return f"{int(seconds / 86400)}d"


def rate(per_s: float) -> str:
    """Four characters at most: `0`, `3.4`, `340`, `3.4k`, `34k`."""
    if per_s < 0.05:
        return "0"
    if per_s < 9.95:
        return f"{per_s:.1f}"
    if per_s < 999.5:
        return f"{per_s:.0f}"
    return f"{per_s / 1000:.1f}k" if per_s < 9950 else f"{per_s / 1000:.0f}k"


def latency(ms: float | None) -> str:
    """Five characters at most: `-`, `8.2ms`, `82ms`, `1.2s`, `82s`."""
    if ms is None:
        return "-"
    for limit, words in ((9.95, f"{ms:.1f}ms"), (999.5, f"{ms:.0f}ms"), (9950, f"{ms / 1000:.1f}s")):
        if ms < limit:
            return words
    return f"{ms / 1000:.0f}s"


def bar(share: float, width: int) -> Text:
    """A bar that is full at 1."""
    eighths = round(8 * width * min(max(share, 0.0), 1.0))
    full, part = divmod(eighths, 8)
    words = "█" * full + (_EIGHTHS[part] if part else "")
    style = "red" if share >= _FULL else "yellow" if share >= _HIGH else "green"
    return Text.assemble((words, style), ("·" * (width - len(words)), "dim"))


def sparkline(values: Sequence[float], width: int) -> str:
    """The last values, the newest at the right, as heights between nothing and the largest that is shown."""
    shown = values[-width:]
    top = max(shown, default=0.0)
    # 7 * top / top may be a little more than 7.
    marks = "".join(_LEVELS[min(7, math.ceil(7 * max(v, 0.0) / top)) if top > 0 else 0] for v in shown)
    return marks.rjust(width)
