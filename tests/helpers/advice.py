"""Profiles of servers that never were, whose costs are known."""

from __future__ import annotations

from trtdisagg.bench.advise.profile import Decode, Handover, Mixed, Prefill, Profile, ServerProfile

BASE_S = 4e-3
"""Of a step: the weights are read."""
DECODE_ROW_S, PREFILL_ROW_S = 1e-4, 2e-5
KV_S, PAIR_S = 2e-8, 1e-9
SHARED_S = 3e-3
REQUEST_S, PROXY_S = 1e-3, 5e-4
HANDOVER_S, FETCH_TOKEN_S = 2e-3, 1e-6


def prefill_s(num_tokens: int) -> float:
    return BASE_S + PREFILL_ROW_S * num_tokens + PAIR_S * num_tokens * (num_tokens + 1) / 2


def decode_s(num_streams: int, num_tokens: float) -> float:
    return BASE_S + num_streams * (DECODE_ROW_S + KV_S * num_tokens)


def server_profile(num_gpus: int = 1, num_cores: int = 0, speed: float = 1.0) -> ServerProfile:
    """
    :param speed: how many times as fast as the others.
    """
    lengths = (1, 4, 16, 64, 256, 1024, 2048)
    batches = [(1, 28), (2, 28), (4, 28), (8, 28), (16, 28), (32, 28), (64, 28), (2, 2000)]
    mixed_s = decode_s(4, 34) + prefill_s(256) - SHARED_S
    return ServerProfile(
        num_gpus=num_gpus,
        num_cores=num_cores,
        prefills=[Prefill(num, (REQUEST_S + prefill_s(num)) / speed) for num in lengths],
        decodes=[Decode(num, tokens, decode_s(num, tokens) / speed) for num, tokens in batches],
        mixed=[Mixed(4, 34, 256, mixed_s / speed)],
    )


def profile(*, has_gpus: bool = True) -> Profile:
    one = server_profile() if has_gpus else server_profile(0, 1)
    servers = {"context": one, "generation": one}
    if not has_gpus:
        servers["aggregated"] = server_profile(0, 2, speed=1.8)
    return Profile(
        date="2026-11-22T14:15:00",
        model="smollm2-135m-instruct",
        machine="2 cores",
        max_seq_len=8192,
        num_kv_tokens=dict.fromkeys(servers, 200_000),
        servers=servers,
        handovers=[Handover(num, HANDOVER_S + FETCH_TOKEN_S * num) for num in (16, 256, 1024)],
        proxy_s=PROXY_S,
    )
