"""`POST /tokenize` and `POST /detokenize` of a server; what they answer is text/tokenizing.py's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from aiohttp import web

from trtdisagg.engine.http.legs import json_response, read_body
from trtdisagg.engine.http.service import Service
from trtdisagg.errors import ModelNotFoundError
from trtdisagg.protocol.tokenize import DetokenizeAnswer, TokenizeAnswer
from trtdisagg.text import tokenizing
from trtdisagg.text.tokenizer import Tokenizer

_LONG_BODY = 4096
"""Bytes from which it is worth a thread: the event loop goes on meanwhile."""


class _Addressed(msgspec.Struct):
    """As much of a body as says whom it is for."""

    model: str | None = None


async def tokenize(service: Service, request: web.Request) -> web.Response:
    """
    :raises RequestError: naming what is wrong with the body.
    """
    return await _answer(service, request, lambda body, t: tokenizing.tokenize(body, t, service.spec.max_seq_len))


async def detokenize(service: Service, request: web.Request) -> web.Response:
    """
    :raises RequestError: naming what is wrong with the body.
    """
    return await _answer(service, request, tokenizing.detokenize)


async def _answer(
    service: Service, request: web.Request, read: Callable[[bytes, Tokenizer], TokenizeAnswer | DetokenizeAnswer]
) -> web.Response:
    with service.admitted():
        body, tokenizer = await read_body(request, service.body_timeout_s), service.tokenizer
        if len(body) < _LONG_BODY:
            answer = read(body, tokenizer)
        else:
            answer = await asyncio.to_thread(read, body, tokenizer)
        _check_model(body, service.spec.model)
        return json_response(msgspec.json.encode(answer))


def _check_model(body: bytes, model: str) -> None:
    """
    :param body: one that could be read.
    """
    asked = msgspec.json.decode(body, type=_Addressed).model
    if asked not in (None, model):
        raise ModelNotFoundError(f"The model `{asked}` is not served here; this server has `{model}`", param="model")
