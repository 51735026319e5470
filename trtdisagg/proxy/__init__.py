"""One OpenAI endpoint in front of context and generation servers. The life of a request goes through these rooms:

    http        bytes of clients as requests, answers as bytes
    door        who may come in, what every answer bears; the routes
    completions admission, deadlines, errors of a request
    texts       its prompt as tokens, in processes of their own, where routing looks at them
    path        decoded, its servers asked, its answer relayed; tried again, or gone on with elsewhere
      routing   which servers: a pure function
      index     whose caches have which prompts
      responses the form of `/v1/responses`
    members     who may be routed to, who is in use
    records     what became of it: metrics, access log, traces

Beside them: serve (the process), app (its routes), means (what all requests share), attached (pages of other rooms),
workers (several processes of one proxy), dashboard, deadlines, ids, memory.
"""
