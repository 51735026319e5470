"""`bench serve`: a load on any OpenAI endpoint, and what came of it.

    Load -> requests (what is asked, and when) -> clients -> Outcome of each -> ServeReport

Knows nothing of our servers: what it measures may be anybody's.
"""
