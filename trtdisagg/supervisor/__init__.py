"""The agent of one node: plan -> processes -> events -> state -> actions.

Commands need six doors:

    survey.survey(cluster, name=)   look at this machine and the models, and make the plan of a cluster file
    doctor.before_start(plan, ...)  whether this machine can carry it
    starter.starter_file(host, ...) a first cluster file for this machine
    place.Place.of(file, name)      where a cluster's sockets, lock and logs are; `rundir.find` finds one that runs
    run.run_agent(plan, place)      bring it up, keep it up, take it down; returns the exit code
    client.ControlClient(place)     talk to a running agent: status, events, and the verbs

From a file to processes:

    ClusterFile -> survey -> slots -> division, nodes (which one), placement, pools
      -> server_plan, transfer_plan, proxy_plan, checks -> plan
      -> run -> agent

What becomes of a wish, as `scale generation=3`:

    command -> client -> control            the socket, and who may use it
      -> operations                         what has to change: meant, wish, difference; replanning finds the places
      -> events -> reducer, transitions     the state after it: state, child, changes
      -> decide                             what the state calls for now, and when to look again
      -> agent -> nursery -> gang -> processes   each child is started, heard (pipes), signalled
      -> events                             of what they say: hearing
    patience waits until the state shows that the wish has come true

Beside them `links` (who has met whom for KV), `telling` (who may be routed to), `canaries` (can it still generate),
`autoscaler` (wishes of its own), `signals`, `guarded` -> `guardian` (clears up if the agent is killed); `journal`,
`view` and `words` are what people see.

`slots` to `plan`, `wish` and `difference`, `events` to `decide`, `view` and `words` are pure; the others touch the
world.
"""
