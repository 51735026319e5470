"""Who may be routed to.

members, client      the agent tells its own proxy the whole set: PUT /members, on each change and every second
registrar            an agent keeps its servers registered in a store, where other proxies find them
  store              what it asks of one
  http_store         ... inside a proxy (whose side of it is leases)
  etcd, etcd_gateway ... in etcd
records              keys and values
open                 from a `cluster_uri` to all of this
"""
