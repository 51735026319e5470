"""What a load asks: prompts of known lengths, shared prefixes, files of prompts, conversations.

    lengths, prompts ──> synthetic ─┐
    files of prompts ──> dataset ───┴─> Workload ──> bench.serve asks it

The same seed asks the same, however many ask at once. Knows nothing of connections and times.
"""
