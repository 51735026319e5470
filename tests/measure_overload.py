"""Measures a proxy at its servers' capacity and at five times as much: a script, since times are figures, not tests.

    python -m tests.measure_overload [--seconds 20] [--rounds 3]

Two generation servers with batches of 8; an answer takes a second. As many may wait as run at once, less a half.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from helpers.overload import Seen, come, percentile
from helpers.serving import serving
from msgspec.structs import replace

BATCH, NUM_TOKENS, TOKEN_MS = 8, 21, 50
SERVERS = {"context-0": [], **{f"generation-{i}": ["--one-batch", f"--token-delay-ms={TOKEN_MS}"] for i in range(2)}}
CAPACITY_S = 2 * BATCH / ((NUM_TOKENS - 1) * TOKEN_MS / 1000)
"""Requests a second: the first token comes from the context server."""


def measure(seconds: float) -> tuple[list[Seen], list[Seen]]:
    """At 0.9 of the capacity, and at five times as much."""
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(Path(directory), SERVERS, engine_max_batch_size=BATCH, max_queue_size=BATCH) as cluster,
    ):
        cluster.tell(*(replace(engine.member, max_batch_size=BATCH) for engine in cluster.engines.values()))
        rates = (0.9 * CAPACITY_S, 5 * CAPACITY_S)
        at, over = (
            asyncio.run(come(cluster.url, int(seconds * rate), requests_s=rate, num_tokens=NUM_TOKENS))
            for rate in rates
        )
        return at, over


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ratios = []
    for _ in range(options.rounds):
        at, over = measure(options.seconds)
        assert all(one.is_right for one in at + over)
        calm, busy = percentile(at, 200, 0.99), percentile(over, 200, 0.99)
        ratios.append(busy / calm)
        print(f"at capacity {dict(Counter(one.status for one in at))}: p99 {calm:.3f} s")
        print(f"at 5 times  {dict(Counter(one.status for one in over))}: p99 {busy:.3f} s, {ratios[-1]:.2f} times")
        refused = [1000 * percentile(over, 429, share) for share in (0.5, 0.99, 1)]
        print("            time to a 429, p50, p99, longest: " + ", ".join(f"{ms:.1f} ms" for ms in refused))
    print(f"p99 of those accepted: {statistics.median(ratios):.2f} times that at capacity")


if __name__ == "__main__":
    main()
