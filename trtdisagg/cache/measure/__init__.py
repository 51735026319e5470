"""`python -m trtdisagg.cache.measure`: how fast KV moves between two servers here, and how fast it could move.

    measure (session) --- orders, JSON lines ---> ranks of the context server      pool, transport, mover
                      --- orders --------------->  ranks of the generation server
                                                         ^ movers read the other server's pools, as they do for requests

No engine takes part: the pools are filled with what tells of its layer, head and token, and what arrives is looked at.
"""
