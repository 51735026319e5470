"""Which server has the KV of which beginning of a text, as far as servers tell.

    index       all servers that a router wants to know this of
    follower    one server: its stream of events, again and again
    blocks      what it has: sets of keys

What is known is a hint: a server decides for itself what it takes from its cache.
"""
