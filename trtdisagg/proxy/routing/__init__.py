"""Which servers a request goes to. Pure: a snapshot, loads, an ask -> a choice, or that there is no room now."""
