"""Which requests take one server: what they ask for is not handed over. The proxy sends them to a generation server
whole, and a server refuses a part of one."""

from __future__ import annotations

from trtdisagg.protocol.openai import ChatRequest, CompletionRequest


def why_indivisible(request: CompletionRequest | ChatRequest) -> str | None:
    """What it asks for; None: a context server may begin it and a generation server end it."""
    if (request.n or 1) > 1 or (request.best_of or 1) > 1:
        return "Several answers to one prompt share its blocks"
    if request.prompt_logprobs is not None or request.return_context_logits:
        return "All of the prompt's own probabilities are asked for"
    if request.return_generation_logits:
        return "The logits of all tokens are asked for"
    if isinstance(request, CompletionRequest):
        if request.echo:
            return "The prompt is said, too (`echo`)"
        if isinstance(request.prompt, list) and len(request.prompt) > 1 and not isinstance(request.prompt[0], int):
            return "There are several prompts"
    return None
