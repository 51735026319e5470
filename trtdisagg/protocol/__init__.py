"""Every message that crosses a process, as named types.

    openai    client  -> proxy -> server     requests in OpenAI's form
    answers   server  -> proxy -> client     and what comes back
    handover  context  -> proxy  -> generation: what makes two legs one request
    peers     server  <-> server             the stream that goes with a KV transfer
    spec      agent    <-> child             the spec file a child is started with, its reports, commands to it
    reports, commands, latencies             the pipes of these, and how `Stats` counts latencies
    control   agent   <-> commands, proxy    status, events, membership

`WIRE_VERSION` counts changes that an older process would misread.
"""

WIRE_VERSION = 1
