"""Slurm: what an allocation is, and the jobs that run clusters in one.

`allocation` reads the environment of a task, `nodelist` Slurm's lists of nodes; `job` is the job of a cluster file.
"""
