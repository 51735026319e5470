"""`python -m trtdisagg.engine.measure`: how fast the engine is here, and how fast it could be."""
