"""NIXL's Python module as the rest of the process can live with it, and the agent that we make of it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from trtdisagg.errors import StartupError


def load() -> tuple[Any, tuple[type[Exception], ...]]:
    """The module, which takes seconds, and its error classes, which have no base of their own.

    :raises StartupError: when it is not installed.
    """
    raise_exceptions = logging.raiseExceptions
    try:
        from nixl import _api, _bindings
    except ImportError as e:
        raise StartupError(f"transport nixl: {e}; install the package nixl, or choose another backend") from e
    # It changes logging for the whole process, and would write to stdout.
    logging.raiseExceptions = raise_exceptions
    logger = logging.getLogger("nixl")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.WARNING)
    errors = (e for e in vars(_bindings).values() if isinstance(e, type) and issubclass(e, Exception))
    return _api, tuple(errors)


def make_agent(name: str, plugin: str, parameters: Mapping[str, str]) -> Any:
    """An agent with one backend, and without a progress thread.

    :raises StartupError: when there is no such plugin, or it does not start here.
    """
    api, errors = load()
    config = api.nixl_agent_config(
        enable_prog_thread=False, backends=[], sync_mode=api.nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT
    )
    try:
        agent = api.nixl_agent(name, config)
        if plugin not in (plugins := agent.get_plugin_list()):
            raise StartupError(f"NIXL has no plugin {plugin}; it has {', '.join(sorted(plugins))}")
        agent.create_backend(plugin, dict(parameters))
    except errors as e:
        hint = " (are UCX_* variables set?)" if plugin == "UCX" else ""
        raise StartupError(f"NIXL's plugin {plugin} does not start: {e}{hint}") from e
    return agent
