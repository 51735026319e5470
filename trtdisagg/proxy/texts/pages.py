"""POST /tokenize and /detokenize, answered without asking a server."""

from __future__ import annotations

import msgspec
from aiohttp import web

from trtdisagg.errors import ModelNotFoundError, RequestError, UnsupportedError
from trtdisagg.protocol.decoding import decode_body
from trtdisagg.proxy.http.bodies import read_body
from trtdisagg.proxy.http.pages import JSON, Pages
from trtdisagg.proxy.means import Means


class _Named(msgspec.Struct):
    model: str | None = None


class TextPages:
    def __init__(self, means: Means) -> None:
        self._means = means

    def pages(self) -> Pages:
        return {("POST", "/tokenize"): self._tokenize, ("POST", "/detokenize"): self._detokenize}

    async def _tokenize(self, request: web.BaseRequest) -> web.Response:
        body = await read_body(request, self._means.spec, self._means.deadlines)
        model = self._model(body)
        answer = await self._means.texts.tokenize(model, body, self._max_model_len(model))
        return web.Response(body=answer, content_type=JSON)

    async def _detokenize(self, request: web.BaseRequest) -> web.Response:
        body = await read_body(request, self._means.spec, self._means.deadlines)
        return web.Response(body=await self._means.texts.detokenize(self._model(body), body), content_type=JSON)

    def _model(self, body: bytes) -> str:
        """Whose tokenizer is asked for.

        :raises RequestError: it is not said, not served, or not here.
        """
        served = {*self._means.spec.models, *self._means.roster.snapshot.pools}
        model = decode_body(body, _Named).model
        if model is None:
            if len(served) != 1:
                raise RequestError("`model` is needed where not one alone is served; see /v1/models", param="model")
            (model,) = served
        if model not in served:
            raise ModelNotFoundError(f"The model `{model}` is not served here; see /v1/models", param="model")
        if not self._means.texts.can_read(model):
            raise UnsupportedError(f"The tokenizer of `{model}` is not here; ask one of its servers", param="model")
        return model

    def _max_model_len(self, model: str) -> int | None:
        """What every server that is there can hold."""
        lengths = [m.max_seq_len for m in self._means.roster.members if m.model == model and m.max_seq_len]
        return min(lengths, default=None)
