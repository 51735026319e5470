"""The agent of one node: plan -> processes -> events -> state -> actions.

Commands need four doors:

    survey.survey(file, ...)        look at this machine and the models, and make the plan of a cluster file
    rundir.Place.of(file, name)     where a cluster's sockets, lock and logs are; `rundir.find` finds one that runs
    agent.run_agent(plan, place)    run it: brings everything up, keeps it up, takes it down, returns the exit code
    client.ControlClient(place)     talk to a running agent: status, events, down

    ClusterFile -> plan.py -> agent.py -> processes.py (children)
                                ^   |         |
                 decide.py <- state.py <- events.py          view.py: state -> what people and the proxy see

`plan`, `placement`, `memory`, `events`, `state`, `decide` and `view` are pure; the others touch the world.
"""
