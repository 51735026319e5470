"""`GET /openapi.json`: what can be asked of the proxy, in OpenAPI 3.1, made from the types that bodies are read with.

Fields that only servers may send each other are left out, and so are pages that are not for programs of clients: the
dashboard and the registry.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from trtdisagg import __version__
from trtdisagg.protocol.answers import ChatChunk, ChatCompletion, Completion, ErrorBody, ModelCard, ModelList
from trtdisagg.protocol.decoding import TIMEOUT_HEADER
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest
from trtdisagg.protocol.responses import ResponsesRequest
from trtdisagg.protocol.tokenize import DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest
from trtdisagg.proxy.door.guard import visitors_of
from trtdisagg.proxy.door.visit import CONTEXT, GENERATION, REQUEST_ID
from trtdisagg.proxy.path.request import NOT_FROM_CLIENTS

JSON, EVENTS, TEXT = "application/json", "text/event-stream", "text/plain"
HIDDEN = frozenset(NOT_FROM_CLIENTS)

Document = dict[str, Any]
Struct = type[msgspec.Struct]


class Operation(NamedTuple):
    summary: str
    takes: Struct | None = None
    gives: Struct | None = None
    """None: some JSON."""
    streams: bool = False
    """With `stream: true`, the same in server-sent events."""
    media: str = JSON
    unready: bool = False
    """503 is an answer like another."""


_METRICS = Operation("Metrics in Prometheus' format", media=TEXT)
_READY = Operation("Whether every model can be served", unready=True)
_ALIVE = Operation("Whether the proxy answers at all")

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/v1/completions"): Operation("Complete prompts", CompletionRequest, Completion, streams=True),
    ("POST", "/v1/chat/completions"): Operation("Answer in a chat", ChatRequest, ChatCompletion, streams=True),
    ("POST", "/v1/responses"): Operation("Make a response", ResponsesRequest, streams=True),
    ("POST", "/tokenize"): Operation("The tokens of a text or a chat", TokenizeRequest, TokenizeAnswer),
    ("POST", "/detokenize"): Operation("The text of tokens", DetokenizeRequest, DetokenizeAnswer),
    ("GET", "/v1/models"): Operation("The models that are served", gives=ModelList),
    ("GET", "/v1/models/"): Operation("One of them", gives=ModelCard),
    ("GET", "/health"): _READY,
    ("GET", "/readyz"): _READY,
    ("GET", "/livez"): _ALIVE,
    ("GET", "/ping"): _ALIVE,
    ("GET", "/version"): Operation("Version of the proxy"),
    ("GET", "/openapi.json"): Operation("This document"),
    ("GET", "/metrics"): _METRICS,
    ("GET", "/prometheus/metrics"): _METRICS,
    ("GET", "/perf_metrics"): Operation("Times of the last requests; each is told once"),
    ("GET", "/cluster_info"): Operation("The servers, in TensorRT-LLM's form"),
    ("GET", "/metrics/targets"): Operation("The servers' addresses, for Prometheus' http_sd_configs"),
}
"""(method, path) -> what it is. A path that ends with a slash is followed by a model's name."""

ERRORS = {
    "400": "The request cannot be served as it stands",
    "401": "The API key or the cluster's secret is missing or wrong",
    "404": "There is no such model",
    "408": "The body did not come in time",
    "413": "The body is too large",
    "415": "The body is compressed",
    "429": "Too much is asked at once; `Retry-After` says when to ask again",
    "502": "A server failed, and no other could be asked",
    "503": "No server is ready; `Retry-After` says when to ask again",
    "504": "The request's deadline has passed",
}
_OF_PAGES = ("401", "404")


def document(routes: Iterable[tuple[str, str]], *, has_keys: bool) -> Document:
    """
    :param routes: (method, path) of all that are there.
    :param has_keys: clients need one.
    """
    paths: dict[str, Document] = {}
    for method, path in sorted(OPERATIONS.keys() & set(routes)):
        shown = f"{path}{{model}}" if path.endswith("/") else path
        operation = _operation(path, OPERATIONS[method, path])
        if has_keys and visitors_of(path) != "anyone":
            operation["security"] = [{"clientKey" if visitors_of(path) == "clients" else "clusterSecret": []}]
        paths.setdefault(shown, {})[method.lower()] = operation
    bearer = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {"title": "trtdisagg", "version": __version__, "description": "An OpenAI API for a cluster."},
        "paths": paths,
        "components": {
            "schemas": _components(),
            "headers": {name: _header(text) for name, text in _HEADERS.items()},
            "securitySchemes": {"clientKey": bearer, "clusterSecret": bearer},
        },
    }


_HEADERS = {
    REQUEST_ID: "The request's id: the client's, or one of ours",
    CONTEXT: "Name of the server that computed the prompt",
    GENERATION: "Name of the server that generated the answer, or began to",
}


def _operation(path: str, operation: Operation) -> Document:
    name = path.strip("/").replace("/", "_") + ("_one" if path.endswith("/") else "")
    made: Document = {"summary": operation.summary, "operationId": name}
    made["parameters"] = [_parameter("header", REQUEST_ID, {"type": "string", "pattern": "^[!-~]{1,128}$"})]
    if path.endswith("/"):
        made["parameters"].append(_parameter("path", "model", {"type": "string", "minLength": 1}))
    if operation.takes is not None:
        if operation.streams:
            made["parameters"].append(_parameter("header", TIMEOUT_HEADER, {"type": "number", "exclusiveMinimum": 0}))
        made["requestBody"] = {"required": True, "content": {JSON: {"schema": _ref(operation.takes.__name__)}}}
    made["responses"] = _responses(operation)
    return made


def _responses(operation: Operation) -> Document:
    schema = {} if operation.gives is None else _ref(operation.gives.__name__)
    content = {operation.media: {"schema": schema} if operation.media == JSON else {}}
    if operation.streams:
        content[EVENTS] = {}
    names = _HEADERS if operation.streams else [REQUEST_ID]
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    responses: Document = {"200": {"description": "Done", "content": content, "headers": headers}}
    if operation.unready:
        responses["503"] = {"description": "Not ready", "content": {JSON: {"schema": {}}}}
    error = {"content": {JSON: {"schema": _ref(ErrorBody.__name__)}}}
    for status in ERRORS if operation.takes is not None else _OF_PAGES:
        responses[status] = {"description": ERRORS[status], **error}
    return responses


def _parameter(place: str, name: str, schema: Document) -> Document:
    return {"in": place, "name": name, "required": place == "path", "schema": schema}


def _header(text: str) -> Document:
    return {"description": text, "schema": {"type": "string"}}


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


@functools.cache
def _components() -> Document:
    """Schemas of all bodies, by the names of their types."""
    kinds: set[Struct] = {k for o in OPERATIONS.values() for k in (o.takes, o.gives) if k is not None}
    kinds |= {ChatChunk, ErrorBody}
    public = [_public(kind) for kind in sorted(kinds, key=lambda kind: kind.__name__)]
    _, components = msgspec.json.schema_components(public, ref_template="#/components/schemas/{name}")
    for schema in components.values():
        for name in HIDDEN & schema.get("properties", {}).keys():
            del schema["properties"][name]
    return {name: components[name] for name in sorted(_reachable(components, {kind.__name__ for kind in public}))}


def _public(kind: Struct) -> Struct:
    """The same type without the fields that no client sees; some of them are of types that JSON schema cannot say."""
    if not HIDDEN & set(kind.__struct_fields__):
        return kind
    fields = [(f.name, f.type, _default(f)) for f in msgspec.structs.fields(kind) if f.name not in HIDDEN]
    config = kind.__struct_config__
    return msgspec.defstruct(
        kind.__name__,
        [field if field[2] is not msgspec.NODEFAULT else field[:2] for field in fields],
        kw_only=True,
        forbid_unknown_fields=config.forbid_unknown_fields,
        namespace={"__doc__": kind.__doc__},
    )


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.field(default_factory=field.default_factory)
    return field.default


def _reachable(components: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """Those that are named, and all that they refer to."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += _refs(components[name])
    return found


def _refs(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"].rpartition("/")[2]] if isinstance(schema.get("$ref"), str) else []
        return own + [name for value in schema.values() for name in _refs(value)]
    return [name for item in schema for name in _refs(item)] if isinstance(schema, list) else []
