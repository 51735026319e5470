"""One OpenAI endpoint in front of context and generation servers. The life of a request is this list of files:

    http_server     who comes in
      client_connection  bytes as requests, answers as bytes (whole_answer, not_http)
    app             routes (routes), and what every answer bears (visit)
    completions     admission, deadlines, errors
    bodies
    request         the body: decoded, checked, spliced into the bodies of the legs
    relay           context leg, first token, generation leg; after a failure the same again, or what is missing of it
      servers       which servers (asks, routing), when there is room (admission)
      legs          one server is asked, and fails (failures)
      pool          connections that are kept open
      upstream      one connection
      http1         its bytes
      context       what the context leg answered
      last_token    when that was all
      answer        what generation says, whole or as a stream
      said          what the client has of it, should it have to go on elsewhere
    client_stream   the client's side

Beside it: texts and index (rooms: prompts as tokens, who has their KV); serve (the process), listen;
members_door, health, doubts and probe (who may be routed to), registry_room, registry_source and store_door (who is
registered elsewhere), uses (who is in use, and who has left), retries (how often anything is tried again), breaker
(who is left alone for a while);
entrance, guard, keys, rates, shared_keys, cors, tls, watched and descriptors (which clients may come in, how often);
record and records (what became of a request), read by counts -> metrics (gauges, targets), perf, and the readers:
access_log, traces (trace_context, spans), recent -> timelines;
attached and pages (of other rooms), readiness, openapi, refusals, means, deadlines, ids.
"""
