"""Runs the probe of the engine half, a program of its own that is not imported here, and collects what it says."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

import msgspec

from trtdisagg.protocol.probe import ProbeLine, decode_probe_line
from trtdisagg.supervisor.doctor import needs
from trtdisagg.supervisor.plan import Plan

TIMEOUT_S = 60
_GRACE_S = 5.0
"""From the deadline at which the probe ends itself to the one at which it is ended."""
_ALL = ("local", "nixl")


class Probed(msgspec.Struct, kw_only=True, frozen=True):
    lines: list[ProbeLine]
    transports: list[str]
    """Those that were asked for."""
    error: str | None = None
    """Why it did not say all that it was asked for."""


def probe(plan: Plan | None, *, timeout_s: int = TIMEOUT_S) -> Probed:
    """Load the engine half in a process of its own, and move memory between two of them, in the way servers will.

    :param plan: None: all transports, in host memory. Of servers on GPUs and others, those on GPUs count.
    """
    on_gpu = [server for server in needs.builtin(plan) if server.gpus]
    alike = on_gpu or needs.builtin(plan)
    wanted = {transport: None for server in alike for transport in needs.engine_spec(server).transfer.transports}
    transports: list[str] = list(wanted if alike else _ALL)
    command = [sys.executable, "-m", "trtdisagg.cache.probe", "--timeout", str(timeout_s)]
    command += ["--transports", ",".join(transports), "--device", "cuda" if on_gpu else "cpu"]
    env = {**os.environ, **(alike[0].env if alike else {})}
    if on_gpu:
        env["CUDA_VISIBLE_DEVICES"] = ",".join({gpu: None for server in on_gpu for gpu in server.gpus})
    return _run(command, env, transports, timeout_s)


def _run(command: Sequence[str], env: Mapping[str, str], transports: list[str], timeout_s: int) -> Probed:
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
    return Probed(lines=_lines(out), transports=transports, error=_error(process.returncode, err, timeout_s))


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """It and its second process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _lines(out: bytes) -> list[ProbeLine]:
    return [decode_probe_line(line) for line in out.splitlines()]


def _error(returncode: int, err: bytes, timeout_s: int) -> str | None:
    if returncode == 0:
        return None
    if returncode in (-signal.SIGALRM, -signal.SIGKILL):
        return f"it did not end within {timeout_s} s"
    last = err.decode(errors="replace").strip().splitlines()
    return last[-1] if last else f"it ended with {returncode}"
