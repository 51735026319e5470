"""A process that works on texts, started by the proxy: python -m trtdisagg.proxy.texts PARENT_PID, its socket stdin."""

from __future__ import annotations

import socket
import sys

from trtdisagg.protocol.parent import end_with_parent

if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    from trtdisagg.proxy.texts.child import serve

    with socket.socket(fileno=0) as sock:
        serve(sock)
