"""Who may be routed to."""
