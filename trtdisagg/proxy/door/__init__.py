"""Which clients may come in, how often, and what every answer bears.

entrance    one request: guard (keys, rates, shared_keys), cors; watched (files that are read again)
routes      who answers a path; visit (ids and names on the answer), refusals (errors), openapi (what there is)
"""
