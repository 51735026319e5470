"""The model families: each a file that reads weights into a decoder. `load` finds the right one."""
