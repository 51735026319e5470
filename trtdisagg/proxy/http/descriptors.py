"""How many connections this process may have open: without descriptors left, it could not even accept and refuse."""

from __future__ import annotations

import logging
import resource

RESERVED = 128
"""For sockets that listen, logs, files that are read again, idle connections to servers."""
PER_CLIENT = 2
"""Its connection, and one to the server that answers it."""

logger = logging.getLogger(__name__)


def allow_connections(wanted: int) -> int:
    """Take as many descriptors as this process may have.

    :param wanted: connections of clients.
    :returns: those there can be; what is missing is said in the log.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    possible = affordable(wanted, most)
    if possible < wanted:
        needed = PER_CLIENT * wanted + RESERVED
        logger.warning(
            "at most %d connections, not %d: this process may open %d files, and would need %d (ulimit -Hn)",
            possible, wanted, most, needed,
        )  # fmt: skip
    return possible


def affordable(wanted: int, num_descriptors: int) -> int:
    """Of the wanted connections those for which there are descriptors; there is always one."""
    if num_descriptors == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, (num_descriptors - RESERVED) // PER_CLIENT))
