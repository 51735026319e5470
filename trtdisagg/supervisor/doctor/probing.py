"""Runs the probe of the engine half, a program of its own that is not imported here, and collects what it says."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.probe import Layouts, ProbeLine, decode_probe_line
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.doctor import needs, ucx
from trtdisagg.supervisor.plan import Plan
from trtdisagg.text.dimensions import kv_layout, read_dimensions
from trtdisagg.text.model_files import files_at

TIMEOUT_S = 60
_GRACE_S = 5.0
"""From the deadline at which the probe ends itself to the one at which it is ended."""
_ALL = ("local", "nixl")
_MAX_TRIALS = 4
"""Each takes seconds."""


class Probed(msgspec.Struct, kw_only=True, frozen=True):
    """What one trial of two processes found."""

    lines: list[ProbeLine]
    transports: list[str]
    """Those that were asked for."""
    pairs: list[str] = []
    """The servers of the plan that it stands for: `context-0 -> generation-0`."""
    error: str | None = None
    """Why it did not say all that it was asked for."""
    by_ucx: ucx.Seen = ucx.Seen()
    """What UCX said meanwhile."""


def probe(plan: Plan | None, *, timeout_s: int = TIMEOUT_S) -> Iterator[Probed]:
    """Load the engine half in a process of its own, and move memory between two of them, in the way servers will: one
    trial for each two devices between which the plan moves KV.

    :param plan: None: all transports, in host memory. Of servers on GPUs and others, those on GPUs count.
    """
    on_gpu = [server for server in needs.builtin(plan) if server.gpus]
    alike = on_gpu or needs.builtin(plan)
    wanted = {transport: None for server in alike for transport in needs.engine_spec(server).transfer.transports}
    transports: list[str] = list(wanted if alike else _ALL)
    command = [sys.executable, "-m", "trtdisagg.cache.probe", "--timeout", str(timeout_s)]
    command += ["--transports", ",".join(transports)]
    env = {**os.environ, **(alike[0].env if alike else {}), **ucx.TALKATIVE}
    gpus = list({gpu: None for server in on_gpu for gpu in server.gpus})
    if gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    for way, pairs in list(_ways(alike, gpus).items())[:_MAX_TRIALS]:
        layouts = ["--layouts", way.layouts] if way.layouts else []
        found = _run([*command, "--device", way.target, "--peer-device", way.source, *layouts], env, timeout_s)
        yield replace(found, transports=transports, pairs=pairs)
        if found.error:
            break


class _Way(NamedTuple):
    """What a trial depends on."""

    source: str
    target: str
    layouts: str = ""
    """JSON; empty: both servers are alike."""


def _ways(servers: Sequence[ChildPlan], gpus: Sequence[str]) -> dict[_Way, list[str]]:
    """The servers between which KV moves, by their devices and layouts; all of a host's memory is one device."""
    if not servers:
        return {_Way("cpu", "cpu"): []}
    ways: dict[_Way, list[str]] = {}
    for one in servers:
        for other in servers:
            if one.model == other.model and one.role != "generation" and other.role != "context" and one != other:
                ends = [f"cuda:{gpus.index(server.gpus[0])}" if gpus else "cpu" for server in (one, other)]
                way = _Way(ends[0], ends[1], _layouts(one, other))
                ways.setdefault(way, []).append(f"{one.name} -> {other.name}")
    return ways or {_Way("cuda:0", "cuda:0") if gpus else _Way("cpu", "cpu"): []}


def _layouts(context: ChildPlan, generation: ChildPlan) -> str:
    theirs, mine = needs.engine_spec(context), needs.engine_spec(generation)
    if (theirs.parallel, theirs.tokens_per_block) == (mine.parallel, mine.tokens_per_block):
        return ""
    try:
        dims = read_dimensions(files_at(mine.model_path))
    except TrtdisaggError:  # said elsewhere
        return ""
    return msgspec.json.encode(Layouts(mine=kv_layout(mine, dims), theirs=kv_layout(theirs, dims))).decode()


def _run(command: Sequence[str], env: Mapping[str, str], timeout_s: int) -> Probed:
    with subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout_s + _GRACE_S)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            out, err = process.communicate()
        except BaseException:
            _kill_group(process)
            raise
    said = err.decode(errors="replace")
    error = _error(process.returncode, said, timeout_s)
    return Probed(lines=_lines(out), transports=[], error=error, by_ucx=ucx.read(said))


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """It and its second process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _lines(out: bytes) -> list[ProbeLine]:
    return [decode_probe_line(line) for line in out.splitlines()]


def _error(returncode: int, said: str, timeout_s: int) -> str | None:
    if returncode == 0:
        return None
    if returncode in (-signal.SIGALRM, -signal.SIGKILL):
        return f"it did not end within {timeout_s} s"
    last = [line for line in said.strip().splitlines() if not ucx.is_of_ucx(line)]
    return last[-1] if last else f"it ended with {returncode}"
