"""`python -m trtdisagg.engine.measure JSON`: what to measure is a `protocol.bench.Measure`.

Says lines of `protocol.bench` on stdout, and nothing else there.
"""

from __future__ import annotations

import os
import signal
import sys

import msgspec

from trtdisagg.errors import ConfigError, TrtdisaggError
from trtdisagg.protocol.bench import LOADS, Failure, Measure, Stage
from trtdisagg.protocol.lines import own_stdout, write_line
from trtdisagg.protocol.parent import end_with_parent
from trtdisagg.text.dimensions import ModelDimensions, read_dimensions
from trtdisagg.text.model_files import resolve_model


def main() -> int:
    """Measure, and say what comes of it; returns the exit code."""
    [words] = sys.argv[1:]
    measure = msgspec.json.decode(words, type=Measure)
    end_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us ends us
    with own_stdout() as out:
        try:
            dims = _dimensions(measure)
            write_line(out, Stage(words=f"loading {measure.model}"))
            from trtdisagg.engine.measure.session import measure_engine  # torch, which takes seconds

            write_line(out, measure_engine(measure, dims, lambda stage: write_line(out, Stage(words=stage))))
        except TrtdisaggError as e:
            write_line(out, Failure(message=e.message, exit_code=e.exit_code))
            return e.exit_code
    return 0


def _dimensions(measure: Measure) -> ModelDimensions:
    """
    :raises TrtdisaggError: when there is no such model, or it is too small for a workload.
    """
    dims = read_dimensions(resolve_model(measure.model))
    for workload in measure.workloads:
        load = LOADS[workload]
        if (num := load.isl + load.osl) > dims.max_positions:
            raise ConfigError(
                f"{workload} needs {num} positions, and the model {measure.model} knows {dims.max_positions}; "
                "leave it out with --workloads"
            )
    return dims


if __name__ == "__main__":
    sys.exit(main())
