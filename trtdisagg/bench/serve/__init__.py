"""`bench serve`: a load on any OpenAI endpoint, and what came of it.

    Load, Workload -> Asked (what is asked), arrivals (when) -> clients -> Outcome of each -> ServeReport

Knows nothing of our servers: what it measures may be anybody's. Others run a load with `run.run_load`.
"""
