"""Published claims, settled against finished studies.

Imports `grid` and `results`. Judging imports no JAX.
"""
