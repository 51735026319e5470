"""One error tree for the whole project.

Each class knows how it looks from outside: the HTTP status and OpenAI error `code` when a client asked for
something, the exit code when a command did. Nothing here knows aiohttp or click.
"""

from __future__ import annotations

from collections.abc import Mapping


class TrtdisaggError(Exception):
    """Base of every error that is meant for the outside world.

    The message says what is wrong, where, and the way out, in one or a few lines.
    """

    http_status = 500
    exit_code = 1
    type = "internal_error"
    code: str | None = None
    headers: Mapping[str, str] = {}
    """Of the answer that says it."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


# --- commands -------------------------------------------------------------------------------------------------------


class ConfigError(TrtdisaggError):
    """The cluster file, a spec file or an option is wrong."""

    exit_code = 2


class StartupError(TrtdisaggError):
    """Something the cluster needs is not there: a port, memory, a model, a program."""


class AlreadyRunningError(StartupError):
    """An agent already runs this cluster."""

    def __init__(self, message: str, *, pid: int | None) -> None:
        super().__init__(message)
        self.pid = pid


class NotRunningError(TrtdisaggError):
    """The command is about a running cluster and none runs."""

    exit_code = 3


class NotReadyInTimeError(TrtdisaggError):
    """The deadline for readiness passed."""

    exit_code = 4


class CrashLoopError(TrtdisaggError):
    """A server died again and again and was given up."""

    exit_code = 5


class RegistryError(TrtdisaggError):
    """Where servers register cannot be reached, or refuses."""


# --- requests -------------------------------------------------------------------------------------------------------


class RequestError(TrtdisaggError):
    """The client's request cannot be served as it stands; asking again will not help."""

    http_status = 400
    type = "invalid_request_error"


class UnsupportedError(RequestError):
    """A field or feature that is known but not served here."""

    code = "unsupported_parameter"


class ContextLengthError(RequestError):
    """Prompt and wished output together are longer than the server can hold."""

    code = "context_length_exceeded"


class AuthenticationError(RequestError):
    """The cluster's secret or the API key is missing or wrong."""

    http_status = 401
    type = "authentication_error"
    code = "invalid_api_key"
    headers = {"WWW-Authenticate": "Bearer"}


class OperatorError(AuthenticationError):
    """A page for operators was asked for without the cluster's secret; a browser asks its user for a password then."""

    headers = {"WWW-Authenticate": 'Basic realm="trtdisagg"'}


class ModelNotFoundError(RequestError):
    """No server of this cluster has the model."""

    http_status = 404
    code = "model_not_found"


class BodyTimeoutError(RequestError):
    """The request body did not come in time."""

    http_status = 408
    code = "body_timeout"


class BodyTooLargeError(RequestError):
    """The request body is over the limit."""

    http_status = 413
    code = "body_too_large"


class OverloadedError(TrtdisaggError):
    """The queue is full; the client may ask again."""

    http_status = 429
    type = "overloaded_error"
    code = "queue_full"


class RateLimitError(TrtdisaggError):
    """The client has asked as much as it may; it may ask again later.

    :param headers: when, and what is left.
    """

    http_status = 429
    type = "requests"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.headers = headers


class UpstreamError(TrtdisaggError):
    """A server failed the request and retrying was not possible."""

    http_status = 502
    type = "upstream_error"
    code = "upstream_failed"


class UnavailableError(TrtdisaggError):
    """No server is ready."""

    http_status = 503
    type = "unavailable_error"
    code = "no_server_ready"


class DeadlineError(TrtdisaggError):
    """The request's deadline passed."""

    http_status = 504
    type = "timeout_error"
    code = "deadline_exceeded"


class HandoverError(TrtdisaggError):
    """The KV blocks of a request could not be moved: the generation server computes the prefix itself."""

    http_status = 502
    type = "handover_error"
    code = "handover_failed"
