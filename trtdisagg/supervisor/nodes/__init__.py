"""A cluster on several nodes: one agent decides, the node agents carry out.

    head (node 0)                                     node agent (each other node)
      state, plan, proxy, registry, control socket      spawns, guards and kills the ranks of its node
      placement: which rank on which node   -- stream ->  Start(spec), Signal, Command
      lines, reports and ends of all ranks  <- stream --  Started(pid), lines, reports, Ended

Nothing is spawned across nodes: each node has its agent already (Slurm started it), and the head asks it by a stream
that both ends prove themselves on. So there is one state, and every verb works for all nodes from node 0.

Placement is pure: `assign` finds a node for each rank (`room`: what is left on one), `spots` the GPUs and cores there.

    the head's side     links (all nodes), link (one), remote (a process there), presence (what coming and going means)
    a node's side       agent, head_link, outbox, ranks
    both                greeting, stream, session: who it is, bytes, and messages that outlive a connection; rendezvous
    placement           assign, room, spots, address
"""
