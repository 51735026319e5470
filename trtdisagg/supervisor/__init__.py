"""The agent of one node: plan -> processes -> events -> state -> actions."""
