"""What a handover costs where people notice: between real servers of the real model. A script, not a test.

    python tests/measure_handover.py [--cases 'bfloat16 local tp1-tp1,...'] [--what gap,first,decode,idle] [--json FILE]

    gap      between a client's first two tokens, through the proxy: beside transfer and one step, what is added
    first    the first transfer after the servers have met, against the later ones
    decode   the rate of running streams while KV of others arrives, against that while the same others find theirs here
    idle     CPU time of connected servers that nobody asks

Times are medians of all rounds, and what nine of ten stay below; servers are started anew for each of `--starts`.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from figures.asking import make_prompt, stream
from figures.servers import MODEL, TOKENS_PER_BLOCK, Case, Servers, connected

NUM_PROMPT = 1024
"""Whole blocks, so that a server that has them all has as little to compute as one that fetched them."""
NUM_TOKENS = 16
NUM_PROMPTS = 6
"""Asked in turn: more than caches of processors hold."""
IDLE_S = 20.0
NUM_STREAMED = {1: 160, 8: 80}
"""Streams at once -> tokens of each that `decode` waits for."""
_TICKS_S = os.sysconf("SC_CLK_TCK")

Figures = dict[str, Any]


def gap(servers: Servers, prompts: list[str], num_rounds: int) -> Figures:
    """Of each round its parts in ms: from the first token at the client to the second one there.

    :param prompts: which the context server has computed before, and the generation server does not keep.
    """
    servers.requests(0)
    with servers.behind_proxy() as url:
        rounds = [
            stream(url, model=MODEL, prompt=prompt, max_tokens=NUM_TOKENS)
            for prompt in islice(cycle(prompts), num_rounds + 1)
        ]
    parts = [_parts(times, told) for times, told in zip(rounds, servers.requests(num_rounds + 1), strict=True)][1:]
    return {
        "median_ms": {name: round(median(part[name] for part in parts), 2) for name in parts[0]},
        "p90_ms": {name: round(quantiles([part[name] for part in parts], n=10)[-1], 2) for name in parts[0]},
    }


def _parts(times: list[float], told: dict[str, float]) -> dict[str, float]:
    assert len(times) >= NUM_TOKENS - 2, f"{len(times)} events"
    started, ended = told["kv_cache_transfer_start"], told["kv_cache_transfer_end"]
    seconds = {
        "gap": times[1] - times[0],
        "transfer": ended - started,
        "step": median(after - before for before, after in pairwise(times[2:-1])),
        "until_arrival": told["arrival_time"] - times[0],
        "until_transfer": started - told["arrival_time"],
        "until_step": told["first_scheduled_time"] - ended,
        "first_step": told["first_token_time"] - told["first_scheduled_time"],
        "until_client": times[1] - told["first_token_time"],
    }
    seconds["added"] = seconds["gap"] - seconds["transfer"] - seconds["step"]
    return {name: 1000 * value for name, value in seconds.items()}


def first(servers: Servers, prompts: list[str]) -> Figures:
    """Times of the first transfers, in ms."""
    servers.requests(0)
    for prompt in prompts:
        servers.hand_over(prompt, 2)
    told = servers.requests(len(prompts))
    took = [1000 * (one["kv_cache_transfer_end"] - one["kv_cache_transfer_start"]) for one in told]
    return {
        "transfers_ms": [round(ms, 2) for ms in took],
        "ratio": round(took[0] / median(took[1:]), 2),
        "mib": round(told[0]["kv_cache_size"] / 2**20, 1),
        "linked_gb_s": round(servers.linked.gb_s, 1),
    }


def idle(servers: Servers, prompts: list[str]) -> Figures:
    """Share of a core that each server takes, when it has handed over and is asked nothing more."""
    servers.hand_over(prompts[0], 2)
    time.sleep(2.0)

    def cpu_s(side: str) -> float:
        return sum(_cpu_s(rank.process.pid) for rank in servers.ranks[side])

    before, started = {side: cpu_s(side) for side in servers.ranks}, time.monotonic()
    time.sleep(IDLE_S)
    passed_s = time.monotonic() - started
    return {f"{side}_percent": round(100 * (cpu_s(side) - before[side]) / passed_s, 2) for side in servers.ranks}


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


def decode(case: Case, num_streams: int, per_s: float, num_rounds: int) -> Figures:
    """Tokens per second of running streams: alone, beside requests that find their KV, beside those that fetch it.

    :param per_s: requests that arrive, each with a step of its own.
    """
    # So few blocks that prompts asked in turn are forgotten before their turn comes again, but on the context server.
    num_blocks = num_streams * 8 + 4 * (NUM_PROMPT // TOKENS_PER_BLOCK + 2)
    prompts = {"found": [make_prompt(NUM_PROMPT)], "fetched": [make_prompt(NUM_PROMPT) for _ in range(NUM_PROMPTS)]}
    rates: dict[str, list[float]] = {"alone": [], "found": [], "fetched": []}
    moved: dict[str, float] = {}
    with connected(case, num_blocks=num_blocks) as servers:
        for prompt in prompts["fetched"] + prompts["found"]:
            servers.hand_over(prompt, 2)
        for _ in range(num_rounds):
            for way, found in rates.items():
                for prompt in prompts.get(way, [])[:1]:
                    servers.hand_over(prompt, 2)
                with _arriving(servers, prompts.get(way, []), per_s):
                    before, started = _moved(servers), time.monotonic()
                    found.append(_rate(servers, num_streams))
                    moved[way] = (_moved(servers) - before) / (time.monotonic() - started)
    alone, here, fetched = (max(rates[way]) for way in ("alone", "found", "fetched"))
    return {
        "tok_s": {way: [round(rate, 1) for rate in found] for way, found in rates.items()},
        "to_found": round(fetched / here, 3),
        "median_to_found": round(median(rates["fetched"]) / median(rates["found"]), 3),
        "to_alone": round(fetched / alone, 3),
        "transfers_s": {way: round(rate, 1) for way, rate in moved.items()},
    }


def _moved(servers: Servers) -> float:
    return servers.generation.metrics()["trtdisagg_kv_transfers_total"]


def _rate(servers: Servers, num_streams: int) -> float:
    """Of all streams together, while all run."""
    num_tokens = NUM_STREAMED[num_streams]

    def run(_: int) -> list[float]:
        prompt = make_prompt(8)
        return stream(servers.generation.url, model=MODEL, prompt=prompt, max_tokens=num_tokens + 8)

    with ThreadPoolExecutor(num_streams) as clients:
        times = list(clients.map(run, range(num_streams)))
    begin, end = max(one[4] for one in times), min(one[-1] for one in times)
    return sum(begin < at <= end for one in times for at in one) / (end - begin)


@contextmanager
def _arriving(servers: Servers, prompts: list[str], per_s: float) -> Iterator[None]:
    """Requests arrive, at an even pace, as long as the block runs."""
    over = threading.Event()

    def arrive() -> None:
        due = time.monotonic()
        for prompt in cycle(prompts):
            servers.hand_over(prompt, 2)
            due += 1 / per_s
            if over.wait(max(0.0, due - time.monotonic())):
                return

    with ThreadPoolExecutor(1) as thread:
        arriving = thread.submit(arrive)
        try:
            yield
        finally:
            over.set()
            arriving.result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = [f"bfloat16 {transport} {layout}" for transport in ("local", "nixl") for layout in ("tp1-tp1", "tp3-tp1")]
    parser.add_argument("--cases", default=",".join(cases))
    parser.add_argument("--what", default="first,gap,decode,idle")
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--per-s", type=float, nargs="+", default=[1.0, 4.0], help="requests that arrive beside decode")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    whats, rows = args.what.split(","), []
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    for case in [Case(*text.split()) for text in args.cases.split(",")]:
        for what, figures in measured(case, whats, args):
            row = {"case": str(case), "figure": what, "load": round(os.getloadavg()[0], 1), **figures}
            print(json.dumps(row), flush=True)
            rows.append(row)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1))


def measured(case: Case, whats: list[str], args: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """All figures of a case, as they are found."""
    for start in range(args.starts if {"first", "gap", "idle"} & {*whats} else 0):
        prompts = [make_prompt(NUM_PROMPT) for _ in range(NUM_PROMPTS)]
        with connected(case, enable_block_reuse=False) as servers:
            figures = first(servers, prompts)
            if "first" in whats:
                yield "first", figures
            if "gap" in whats:
                yield "gap", gap(servers, prompts, args.rounds)
            if "idle" in whats and start == 0:
                yield "idle", idle(servers, prompts)
    if "decode" in whats:
        for num_streams in NUM_STREAMED:
            for per_s in args.per_s:
                figures = decode(case, num_streams, per_s, args.rounds)
                yield "decode", {"num_streams": num_streams, "per_s": per_s, **figures}


if __name__ == "__main__":
    main()
