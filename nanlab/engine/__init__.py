"""Run one group side by side on this process's devices and attribute every failure.

The only room that vmaps, jits and shards trainings. Imports `problems` and the rooms above it.
"""
