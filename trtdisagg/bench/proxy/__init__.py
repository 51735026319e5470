"""`trtdisagg bench proxy`: what a proxy costs, measured between scripted servers and a load client.

    measure     rounds, and the best of them
      phases    one kind of load each
      subject   the proxy under test, a real process: ours, or any other
      scripts   what the servers answer, in our dialect or in the one that others speak
      requests  what the client asks

Servers and client are threads of C++ (csrc/load/), faster than any proxy between them.
"""
