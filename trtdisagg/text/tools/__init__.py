"""Tools: how families of models call them, the calls in what they say, and calls that are valid by construction.

Door: `use.tool_use`, of a request's fields and the model's tokenizer.
"""
