"""Who may be routed to, and who is in use.

members_door    an agent tells
registry_room   others register: registry_source, store_door, store_follower
health          fixed addresses are looked at
doubts          so are servers that may be gone; probe asks them
uses            what counts on each; shared_loads: what other processes of the proxy have there
readiness       what follows for /health
"""
