"""Who may have which page, where there are API keys. Without them everybody may have all that has no guard of its own.

anyone      whether this is alive and ready, which version it is, and what can be asked of it
clients     what the models are asked: an API key, within its limits
operators   metrics, times of requests, servers, the dashboard: the cluster's secret, as at the servers' own pages
registry    asks for the secret itself (store_door.py)

A page that is in no list is for operators.
"""

from __future__ import annotations

import base64
import hmac
from typing import Literal

from trtdisagg.errors import OperatorError
from trtdisagg.proxy.door.keys import Client, Keys, bearer
from trtdisagg.proxy.members.store_door import ROUTES

ANYONE = frozenset({"/health", "/readyz", "/livez", "/ping", "/version", "/openapi.json"})
REGISTRY = frozenset(path for _, path in ROUTES)
CLIENTS = frozenset({"/tokenize", "/detokenize"})
CLIENTS_BELOW = "/v1/"

Visitors = Literal["anyone", "clients", "operators"]


def visitors_of(path: str) -> Visitors:
    """For whom a page is."""
    if path in ANYONE or path in REGISTRY:
        return "anyone"
    return "clients" if path in CLIENTS or path.startswith(CLIENTS_BELOW) else "operators"


class Guard:
    """
    :param keys: those that are valid.
    :param secret: the cluster's; None: there is none, and so nobody can prove to be an operator.
    """

    def __init__(self, keys: Keys, secret: str | None) -> None:
        self._keys = keys
        self._secret = secret

    def let_in(self, path: str, authorization: str | None) -> Client | None:
        """
        :returns: the client, where the page is for clients.
        :raises AuthenticationError: not who it is for; of a page for operators, OperatorError.
        """
        match visitors_of(path):
            case "clients":
                return self._keys.find(authorization)
            case "operators":
                self._check_secret(authorization)
        return None

    def _check_secret(self, authorization: str | None) -> None:
        given = (bearer(authorization) or _password(authorization)).encode(errors="surrogateescape")
        if self._secret is None or not hmac.compare_digest(given, self._secret.encode()):
            raise OperatorError(
                "This page is for who knows the cluster's secret: `Authorization: Bearer SECRET`"
                + ("" if self._secret else "; this cluster has none: name a `secret_file`")
            )


def _password(authorization: str | None) -> str:
    """What a browser's `Authorization: Basic base64(NAME:PASSWORD)` brings, with any name; empty: nothing."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""
