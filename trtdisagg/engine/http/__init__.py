"""The engine's HTTP face: OpenAI bodies in, text out. Tokens and blocks are the executor's.

routes -> intake (body to job) -> legs (job to answer) -> running (outputs of the engine to pieces of answers)
       -> answer (tokens to text) -> frames (pieces to bodies)
"""
