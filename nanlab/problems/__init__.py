"""The two pure functions of one run: supervised training, quadratic oracle, or a user's own code.

Imports `plan` and the rooms above it.
"""
