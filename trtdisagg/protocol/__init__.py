"""Every message that crosses a process, as named types.

    openai    client  -> proxy -> server     requests in OpenAI's form
    answers   server  -> proxy -> client     and what comes back
    handover  context  -> proxy  -> generation: what makes two legs one request
    peers     server  <-> server             the stream that goes with a KV transfer; `memory`: where the KV is
    helping   rank    <-> rank of another    KV that is packed on its way
    movers    rank 0  <-> rank of its own    what the movers of a server are told
    spec, proxy_spec   agent -> child        the file it is started with; `parallel`: how ranks divide a model
    reports, commands                        what it says, what it is told; `stats`, `latencies`: what it has counted
    control   agent   <-> commands, proxy    status, events, membership

`WIRE_VERSION` counts changes that an older process would misread.
"""

WIRE_VERSION = 1
