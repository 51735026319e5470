"""The OpenAI door: admit, route, hand over, relay."""
