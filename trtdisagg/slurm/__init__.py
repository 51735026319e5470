"""Slurm: what an allocation is, and the jobs that run clusters in one.

In a job, `allocation` reads the environment of a task and `nodelist` Slurm's lists of nodes. The first task of each
node is its agent (`srun`) and the others wait for its end (`waiting`), or each task is a node with one rank (`tasks`).
Before it:

    cluster file -> job (what is asked of Slurm) -> script (the batch script) -> folders (that of the run)
                 -> commands (sbatch, squeue) -> readiness (of its cluster)
"""
