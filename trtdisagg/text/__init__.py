"""Models as files and text as tokens: what both halves of the house know about a model without loading its weights.

Nothing here imports torch.
"""
