"""Facts about addresses of this machine that both halves need: who can reach one, and who has a port."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine can reach what listens on an address.

    A name counts as reachable by others, but for `localhost`: where it leads is not looked up.
    """
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def holder(port: int) -> str:
    """Which process listens on a port, in words."""
    import psutil  # only when something is wrong

    try:
        listeners = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    except psutil.Error:
        listeners = []
    pid = next((c.pid for c in listeners if c.laddr[1:] == (port,) and c.pid is not None), None)
    if pid is None:
        return "a process of another user"
    try:
        process = psutil.Process(pid)
        return f"pid {pid} ({' '.join(process.cmdline())[:80] or process.name()})"
    except psutil.Error:
        return f"pid {pid}"
