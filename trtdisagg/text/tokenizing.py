"""What /tokenize and /detokenize answer: on a server, and on the proxy by its text processes."""

from __future__ import annotations

from trtdisagg.errors import RequestError
from trtdisagg.protocol.decoding import decode_body
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest
from trtdisagg.protocol.tokenize import DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest
from trtdisagg.text.prompts import Wish, read_prompts
from trtdisagg.text.tokenizer import Tokenizer


def tokenize(body: bytes, tokenizer: Tokenizer, max_model_len: int | None) -> TokenizeAnswer:
    """
    :raises RequestError: naming what is wrong with the body.
    """
    asked = decode_body(body, TokenizeRequest)
    (tokens,) = read_prompts(_wish(asked), tokenizer)
    strings = tokenizer.token_strings(tokens) if asked.return_token_strs else None
    return TokenizeAnswer(count=len(tokens), max_model_len=max_model_len, tokens=tokens, token_strs=strings)


def detokenize(body: bytes, tokenizer: Tokenizer) -> DetokenizeAnswer:
    """
    :raises RequestError: naming what is wrong with the body.
    """
    tokens = decode_body(body, DetokenizeRequest).tokens
    for i, token in enumerate(tokens):
        if not 0 <= token < tokenizer.vocab_size:
            raise RequestError(
                f"`tokens[{i}]` is {token}; the model has {tokenizer.vocab_size} tokens", param=f"tokens[{i}]"
            )
    return DetokenizeAnswer(tokenizer.decode(tokens, skip_special_tokens=False))


def _wish(asked: TokenizeRequest) -> Wish:
    """The request for completions with this prompt."""
    model = asked.model or ""
    if (asked.prompt is None) == (asked.messages is None):
        raise RequestError("Either `prompt` or `messages` is needed, and not both", param="prompt")
    if asked.messages is not None:
        if asked.add_special_tokens:
            raise RequestError(
                "`add_special_tokens` is for a `prompt`: a chat template adds its own", param="add_special_tokens"
            )
        return ChatRequest(
            model=model,
            messages=asked.messages,
            add_generation_prompt=asked.add_generation_prompt,
            chat_template_kwargs=asked.chat_template_kwargs,
            tools=asked.tools,
        )
    for name in ("chat_template_kwargs", "tools"):
        if getattr(asked, name) is not None:
            raise RequestError(f"`{name}` is for `messages`; a `prompt` is taken as it is", param=name)
    assert asked.prompt is not None
    return CompletionRequest(model=model, prompt=asked.prompt, add_special_tokens=asked.add_special_tokens is not False)
