"""Who may be routed to: the agent tells (client), the proxy keeps (members).

agent --- PUT /members, on each change and every second ---> proxy
"""
