"""`python -m trtdisagg.cache.measure JSON`: what to measure is a `protocol.bench_kv.KvMeasure`.

Says lines of `protocol.bench` on stdout, a `KvReport` at last, and nothing else there.
"""

from __future__ import annotations

import os
import signal
import sys

import msgspec

from trtdisagg.cache.measure.session import measure_kv
from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.bench import Failure, Stage
from trtdisagg.protocol.bench_kv import KvMeasure
from trtdisagg.protocol.lines import own_stdout, write_line
from trtdisagg.protocol.parent import end_with_parent


def main() -> int:
    """Measure, and say what comes of it; returns the exit code."""
    [words] = sys.argv[1:]
    measure = msgspec.json.decode(words, type=KvMeasure)
    end_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us ends us
    with own_stdout() as out:
        try:
            write_line(out, measure_kv(measure, lambda stage: write_line(out, Stage(words=stage))))
        except TrtdisaggError as e:
            write_line(out, Failure(message=e.message, exit_code=e.exit_code))
            return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
