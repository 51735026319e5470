"""`python -m trtdisagg.cache.probe`: does the engine half load here, and how fast does KV move on this host?

    probe --- stdin, open until the end ---> server: a second process with a pool of its own
          <-- stdout: where its pool is ----
          === 1 MiB and 64 MiB by each transport

Says what it finds as lines of `protocol.probe`. Nothing is imported before it is tried. Both processes are killed by
the kernel at the deadline, whatever they hang in.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, get_args

import msgspec

from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.lines import own_stdout, write_line
from trtdisagg.protocol.memory import Memory
from trtdisagg.protocol.probe import MAX_PIECE_BYTES, Layouts, Library, LinkRate, MemoryRate, ProbeLine
from trtdisagg.protocol.spec import Transport as TransportName

if TYPE_CHECKING:
    from trtdisagg.cache.pool import KvPool
    from trtdisagg.cache.transports import Transport

_TIMEOUT_S = 60


class _Offer(msgspec.Struct, kw_only=True, frozen=True):
    """What the server says of one transport."""

    memory: Memory | None = None
    error: str | None = None


def main(args: Sequence[str] | None = None) -> int:
    """Probe, or be the probe's server."""
    parser = argparse.ArgumentParser(prog="python -m trtdisagg.cache.probe", description=__doc__)
    parser.add_argument("--transports", default="local,nixl", help="with commas between")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:N: where what is read arrives")
    parser.add_argument("--peer-device", metavar="DEVICE", help="where it is read from; without it, the same")
    parser.add_argument("--layouts", type=_layouts, metavar="JSON", help="of two servers, whose pieces are moved")
    parser.add_argument("--timeout", type=int, default=_TIMEOUT_S, metavar="SECONDS")
    parser.add_argument("--serve", metavar="DEVICE", help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    names = [name for name in options.transports.split(",") if name]
    if unknown := set(names) - set(get_args(TransportName)):
        parser.error(f"there is no transport {', '.join(sorted(unknown))}")
    signal.alarm(options.timeout)
    with own_stdout() as out:
        if options.serve:
            _serve(options.serve, names, out)
            return 0
        ends = Ends(options.device, options.peer_device or options.device, options.layouts)
        return _tell(ends, names, options.timeout, lambda line: write_line(out, line))


def _layouts(text: str) -> Layouts:
    return msgspec.json.decode(text, type=Layouts)


class Ends(NamedTuple):
    """Between what the probe moves."""

    device: str
    peer_device: str
    layouts: Layouts | None
    """None: two alike."""


def _tell(ends: Ends, names: Sequence[str], timeout_s: int, say: Callable[[ProbeLine], None]) -> int:
    """Find everything out, and say each thing when it is known."""
    libraries = _libraries(names)
    for library in libraries:
        say(library)
    if any(library.error for library in libraries if library.name == "torch"):
        return 1
    # From here on torch is there, which takes seconds.
    from trtdisagg.cache.probe_moves import empty_pool, nccl_version, piece_bytes, plain_copy, rates

    size = piece_bytes(ends.layouts) if ends.layouts else MAX_PIECE_BYTES
    if nccl := nccl_version():
        say(Library(name="NCCL", version=nccl))
    with empty_pool(ends.device) as pool:
        say(MemoryRate(device=ends.device, rates=rates(plain_copy(pool))))
        with _server(ends.peer_device, names, timeout_s) as offers:
            for name in names:
                say(_probe(name, pool, offers, size))
    return 0


# --- what there is --------------------------------------------------------------------------------------------------


def _libraries(transports: Sequence[str]) -> list[Library]:
    modules = {"torch": "torch", "kernels": "trtdisagg._csrc"}
    if not {"nixl", "ucx"}.isdisjoint(transports):
        modules["nixl"] = "nixl._bindings"
    if "mpi" in transports:
        modules["mpi4py"] = "mpi4py"  # its module MPI would start MPI
    return [_library(name, module) for name, module in modules.items()]


def _library(name: str, module: str) -> Library:
    version = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("trtdisagg" if name == "kernels" else name)
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as e:  # OSError: a shared library that is missing
        return Library(name=name, version=version, error=str(e).splitlines()[0])
    return Library(name=name, version=version)


# --- the two ends ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(name: str, pool: KvPool, agent: str) -> Iterator[Transport]:
    from trtdisagg.cache.transports import open_transports

    with open_transports([name], pool, incarnation=agent, one_host=True) as (transport,):
        yield transport


def _serve(device: str, names: Sequence[str], out: BinaryIO) -> None:
    """Fill a pool, say where it is, and let it be read until stdin ends."""
    from trtdisagg.cache.probe_moves import empty_pool, fill

    with empty_pool(device) as pool, contextlib.ExitStack() as stack:
        fill(pool)
        offers = {}
        for name in names:
            try:
                transport = stack.enter_context(_opened(name, pool, "probe-server"))
            except TrtdisaggError as e:
                offers[name] = _Offer(error=e.message)
                continue
            transport.set_serving(True)
            offers[name] = _Offer(memory=transport.describe())
        write_line(out, offers)
        sys.stdin.read()


@contextlib.contextmanager
def _server(device: str, names: Sequence[str], timeout_s: int) -> Iterator[dict[str, _Offer]]:
    command = [sys.executable, "-m", "trtdisagg.cache.probe", "--serve", device]
    command += ["--transports", ",".join(names), "--timeout", str(timeout_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield msgspec.json.decode(line, type=dict[str, _Offer]) if line else {}
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _probe(name: str, pool: KvPool, offers: dict[str, _Offer], piece_bytes: int) -> LinkRate:
    from trtdisagg.cache.probe_moves import rates, runs, wrong_content

    offer = offers.get(name, _Offer(error="the second process ended before it could serve"))
    device = pool.device.type
    if offer.memory is None:
        return LinkRate(transport=name, device=device, error=offer.error)
    try:
        with _opened(name, pool, "probe") as transport, contextlib.closing(transport.connect(offer.memory)) as link:

            def move(num_bytes: int) -> None:
                link.read(runs(num_bytes, piece_bytes))

            measured, error = rates(move), wrong_content(pool, move)
    except TrtdisaggError as e:
        return LinkRate(transport=name, device=device, error=e.message)
    return LinkRate(transport=name, device=device, rates=measured, piece_bytes=piece_bytes, error=error)


if __name__ == "__main__":
    sys.exit(main())
