"""The path of one request, from its decoded body to the last byte of its answer.

    request         the body: decoded, checked, spliced into the bodies of the legs
    relay           context leg, first token, generation leg; after a failure the same again, or what is missing of it
      asks          what routing looks at (sizes)
      servers       chosen, counted on, avoided
      admission     when there is room
      legs          one server is asked, and fails (failures, breaker)
      context       what the context leg answered
      last_token    when that was all
      answer        what generation says, whole or as a stream
      said          what the client has of it, should it have to go on elsewhere
    client_stream   the client's side

Beside it: retries (how often anything is tried again), releases (KV that nobody will come for).
"""
