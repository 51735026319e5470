"""One job on a text: a client's body and a tokenizer -> what the proxy needs to know of it. Pure."""

from __future__ import annotations

import struct

import msgspec

from trtdisagg.errors import RequestError, TrtdisaggError
from trtdisagg.protocol.answers import ErrorDetail
from trtdisagg.protocol.decoding import decode_request
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest
from trtdisagg.protocol.texts import Answer, Detokenize, Job, Page, Prompt, Read, Tokenize, Unreadable
from trtdisagg.text.block_hash import KEY_BYTES, extend_chain, root_hash
from trtdisagg.text.prompts import Wish, read_prompts
from trtdisagg.text.tokenizer import Tokenizer
from trtdisagg.text.tokenizing import detokenize, tokenize


def work(job: Job, tokenizer: Tokenizer) -> Answer:
    """
    :raises TrtdisaggError: what is wrong with the body.
    """
    match job:
        case Read():
            return _read(job, tokenizer)
        case Tokenize():
            answer = tokenize(job.body, tokenizer, job.max_model_len)
            return Page(number=job.number, body=msgspec.json.encode(answer))
        case Detokenize():
            return Page(number=job.number, body=msgspec.json.encode(detokenize(job.body, tokenizer)))


def unreadable(job: Job, error: TrtdisaggError) -> Unreadable:
    detail = ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code)
    return Unreadable(number=job.number, status=error.http_status, error=detail)


def _read(job: Read, tokenizer: Tokenizer) -> Prompt:
    wish: Wish = decode_request(job.body, ChatRequest) if job.chat else decode_request(job.body, CompletionRequest)
    prompts = read_prompts(wish, tokenizer)
    return Prompt(
        number=job.number,
        num_tokens=sum(map(len, prompts)),
        token_ids=msgspec.json.encode(prompts[0]) if len(prompts) == 1 else b"",
        chains=[_chain(root_hash(model, wish.cache_salt), prompts[0], n) for model, n in job.roots],
    )


def _chain(root: bytes, token_ids: list[int], tokens_per_block: int) -> bytes:
    """
    :raises RequestError: they came as numbers, and some are far from any token.
    """
    chain: list[bytes] = []
    try:
        extend_chain(chain, root, token_ids, tokens_per_block, len(token_ids))
    except struct.error:
        raise RequestError("The prompt has numbers that are no tokens", param="prompt") from None
    return b"".join([h[:KEY_BYTES] for h in chain])
