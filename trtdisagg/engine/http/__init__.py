"""The engine's HTTP face: OpenAI bodies in, text out. Tokens and blocks are the executor's.

routes -> intake (body to job) -> legs (job to answer) -> running (tokens to text) -> frames (text to bodies)
"""
