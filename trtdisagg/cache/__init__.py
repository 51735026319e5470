"""KV blocks: the pool they lie in, who holds them, and how they move between servers."""
