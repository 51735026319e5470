"""Decoders on a CUDA device: our own Triton kernels over the block pool, torch's products, CUDA graphs for generation.

Imported only where the pool is on such a device: Triton comes with torch's builds for CUDA.
"""
