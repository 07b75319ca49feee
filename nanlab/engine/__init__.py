"""Runs one group side by side on this process's devices and attributes every failure.

The only room that vmaps, jits and shards trainings. Imports `problems` and the rooms above it.
"""
