"""The cluster file: what it may say (`schema`), how it is read (`load`), what TensorRT-LLM's also say (`upstream`).

load.py: located.py (YAML with places) -> sections.py (made whole) -> keys.py (known?) -> Structs -> checks.py (fit?)
"""
