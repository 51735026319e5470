"""The figures of each request, beside those of all: for histograms, and for whoever works out figures of their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from trtdisagg.bench.serve.outcome import Outcome


def details(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """By their keys in a report, a value for each request, in the order in which they were sent; times in seconds.

    Of what failed there is what had come until then; None is what nobody knows. A gap is that between two chunks, not
    shared by their tokens.
    """
    found = sorted(outcomes, key=lambda outcome: outcome.sent_at)
    return {
        "input_lens": [outcome.num_input_tokens for outcome in found],
        "output_lens": [outcome.num_tokens for outcome in found],
        "start_times": [outcome.sent_at - found[0].sent_at for outcome in found],
        "ttfts": [outcome.heard_at[0] - outcome.sent_at if outcome.heard_at else None for outcome in found],
        "itls": [[later - earlier for earlier, later in pairwise(outcome.heard_at)] for outcome in found],
        "e2els": [outcome.ended_at - outcome.sent_at for outcome in found],
        "outcomes": [outcome.error or ("cancelled" if outcome.is_cancelled else "completed") for outcome in found],
    }
