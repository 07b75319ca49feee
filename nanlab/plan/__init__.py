"""The runs of a grid, their identities and groups, and the further rounds of a search.

Imports `grid` and the rooms above it; NumPy and polars, no JAX.
"""
