"""Servers whose ranks are the processes of one MPI world: `mpirun` has started them, and ends all when one ends.

cli/mpi_worker -> WorldSpec -> world: MPI starts -> terms: all tell, each settles its EngineSpec -> a usual rank
"""
