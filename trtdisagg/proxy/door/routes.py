"""Which handler a request is for, and what is said where there is none. Knows nothing of what handlers do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Generic, TypeVar

from aiohttp import web

from trtdisagg.errors import RequestError
from trtdisagg.proxy.door.visit import Visit
from trtdisagg.proxy.http.whole_answer import AnyAnswer

Visited = Callable[[web.BaseRequest, Visit], Awaitable[AnyAnswer]]
SHOWN_CHARS = 200
"""Of a path, in a message."""

_T = TypeVar("_T")


class NotFoundError(RequestError):
    """No such route."""

    http_status = 404
    code = "not_found"


class WrongMethodError(RequestError):
    """The route is there, the method is not."""

    http_status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.headers = {"Allow": allowed}


class Routes(Generic[_T]):
    """Paths, each with its methods. A path that ends with a slash stands for all that begin with it, as well."""

    def __init__(self) -> None:
        self._methods: defaultdict[str, dict[str, _T]] = defaultdict(dict)

    def add(self, method: str, path: str, handler: _T) -> None:
        self._methods[path][method] = handler

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(method, path) of each."""
        return ((method, path) for path, methods in self._methods.items() for method in methods)

    def find(self, method: str, path: str) -> _T:
        """
        :param path: without its query.
        :raises NotFoundError, WrongMethodError:
        """
        methods = self._of(path)
        handler = methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            shown = path[:SHOWN_CHARS]
            raise WrongMethodError(
                f"{shown} takes {' or '.join(sorted(methods))}, not {method[:SHOWN_CHARS]}", ", ".join(_all(methods))
            )
        return handler

    def allowed(self, path: str) -> list[str]:
        """The methods that a path takes; of `*`, that any does.

        :raises NotFoundError:
        """
        if path == "*":
            return _all(sorted({method for methods in self._methods.values() for method in methods}))
        return _all(self._of(path))

    def _of(self, path: str) -> dict[str, _T]:
        if (methods := self._methods.get(path)) is not None:
            return methods
        for known, methods in self._methods.items():
            if known.endswith("/") and path.startswith(known):
                return methods
        raise NotFoundError(f"There is no route {path[:SHOWN_CHARS]}; see /openapi.json")


def _all(methods: Sequence[str] | dict[str, _T]) -> list[str]:
    return [*sorted(methods), *(["HEAD"] if "GET" in methods else []), "OPTIONS"]
