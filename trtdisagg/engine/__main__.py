"""`python -m trtdisagg.engine --spec FILE`: one engine process. Nothing heavy is imported before it has its cores."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib
import logging
import os
import resource
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from trtdisagg.errors import ConfigError, TrtdisaggError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.parent import end_with_parent
from trtdisagg.protocol.reports import Failed, Reporter
from trtdisagg.protocol.spec import EngineSpec

if TYPE_CHECKING:
    from trtdisagg.engine.serve import Loaded

log = logging.getLogger("trtdisagg.engine")


def main() -> int:
    """Be an engine until asked to end; returns the exit code."""
    parser = argparse.ArgumentParser(prog="trtdisagg engine", description="One engine process.")
    parser.add_argument("--spec", required=True, metavar="FILE", help="what the agent wrote: an EngineSpec as JSON")
    path = Path(parser.parse_args().spec)
    set_up_log()
    try:
        spec = _read_spec(path)
    except ConfigError as e:
        log.error("%s", e)
        return e.exit_code
    end_with_parent(spec.parent_pid)
    return run_rank(spec)


def set_up_log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def run_rank(spec: EngineSpec, secret: bytes | None = None) -> int:
    """Be the rank that a spec says.

    :param secret: of the servers among themselves; None: that of `secret_file`, which clients need, too.
    :return: the exit code.
    """
    with contextlib.closing(Reporter(spec.report_fd)) as reporter:
        try:
            _check_rank(spec, has_secret=bool(secret or spec.secret_file))
            return _serve(spec, reporter, secret) if spec.rank == 0 else _follow(spec, reporter, secret)
        except TrtdisaggError as e:
            return _fail(reporter, e.message, e.exit_code, fatal=isinstance(e, ConfigError))
        except Exception as e:
            log.exception("the engine failed")
            return _fail(reporter, f"{type(e).__name__}: {e}", 1)


def _read_spec(path: Path) -> EngineSpec:
    """
    :raises ConfigError: when it is no spec that this version understands.
    """
    try:
        spec = msgspec.json.decode(path.read_bytes(), type=EngineSpec)
    except OSError as e:
        raise ConfigError(f"the spec file {path} cannot be read: {e.strerror}") from e
    except msgspec.DecodeError as e:
        raise ConfigError(f"the spec file {path} is not one that the agent wrote: {e}") from e
    if spec.wire_version != WIRE_VERSION:
        raise ConfigError(f"the spec file {path} has wire version {spec.wire_version}, this is {WIRE_VERSION}")
    return spec


def _check_rank(spec: EngineSpec, *, has_secret: bool) -> None:
    """
    :raises ConfigError: when there is no such rank, or it cannot meet the others.
    """
    from trtdisagg.engine.gang.sockets import check_meeting

    num_ranks = spec.parallel.num_ranks
    if not 0 <= spec.rank < num_ranks:
        raise ConfigError(f"{spec.name} has the ranks 0 to {num_ranks - 1}, and none with number {spec.rank}")
    check_meeting(spec, has_secret=has_secret)


def _serve(spec: EngineSpec, reporter: Reporter, secret: bytes | None) -> int:
    stay_on(spec.cores)
    _allow_many_connections()

    import uvloop

    from trtdisagg.engine.serve import Server

    open_engine = partial(_open_engine, among_us=secret, on_lost=partial(_lost, reporter))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Server(spec, reporter, open_engine).run())


def _follow(spec: EngineSpec, reporter: Reporter, secret: bytes | None) -> int:
    stay_on(spec.cores)

    import uvloop

    from trtdisagg.engine.gang.follow import Follower
    from trtdisagg.engine.secret import read_secret

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Follower(spec, secret or read_secret(spec.secret_file), reporter, end).run())


def stay_on(cores: list[int] | None) -> None:
    if cores is not None:
        os.sched_setaffinity(0, cores)  # before torch counts them and starts threads


def _allow_many_connections() -> None:
    """As many descriptors as we may have: a burst of a thousand requests is beyond the usual limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextlib.asynccontextmanager
async def _open_engine(
    spec: EngineSpec, secret: bytes, *args: Any, among_us: bytes | None, on_lost: Callable[[str], None]
) -> AsyncIterator[Loaded]:
    """`assemble.open_engine`; importing it imports torch, which takes seconds that `/health` can do without."""
    gc.disable()  # nearly all that is made now stays: to look through it again and again is a tenth of the start
    module = await asyncio.to_thread(importlib.import_module, "trtdisagg.engine.assemble")
    async with module.open_engine(spec, among_us or secret, *args, on_lost) as loaded:
        gc.freeze()
        gc.enable()
        yield loaded


def _fail(reporter: Reporter, message: str, exit_code: int, *, fatal: bool = False) -> int:
    log.error("%s", message)
    reporter.send(Failed(message=message, fatal=fatal))
    return exit_code


def _lost(reporter: Reporter, reason: str) -> NoReturn:
    """End because another rank has: what our threads wait for will not come."""
    end(_fail(reporter, reason, 1))


def end(code: int) -> NoReturn:
    """Not sys.exit: a thread that loads weights, or computes, must neither hold up the end nor crash it."""
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    end(main())
