"""The results folder: schema, files, chunk store, manifest, reading back and comparing.

Imports `plan` and the rooms above it. Nothing here imports JAX.
"""
