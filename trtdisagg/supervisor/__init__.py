"""The agent of one node: plan -> processes -> events -> state -> actions.

Commands need six doors:

    survey.survey(cluster, name=)   look at this machine and the models, and make the plan of a cluster file
    doctor.before_start(plan, ...)  whether this machine can carry it
    starter.starter_file(host, ...) a first cluster file for this machine
    rundir.Place.of(file, name)     where a cluster's sockets, lock and logs are; `rundir.find` finds one that runs
    agent.run_agent(plan, place)    bring it up, keep it up, take it down; returns the exit code
    client.ControlClient(place)     talk to a running agent: status, events, down

Inside, a straight line:

    ClusterFile -> slots -> placement, memory -> server_plan, checks -> plan
    plan -> agent -> nursery -> processes        guarded -> guardian: clears up if the agent is killed
              ^  \\-> control, journal -> client
              |
    events -> child, state -> decide -> events (the actions)        view, words: what people and the proxy see

`slots` to `plan`, `events` to `decide`, `view` and `words` are pure; the others touch the world.
"""
