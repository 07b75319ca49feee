"""The detective: which equation of a program made the first inf and the first NaN, and how.

Knows nothing of grids, lanes or trainings, and imports `backend` only. Its rooms, each standing on
those before it: `program`, `probes`, `diagnosis`, `explain`.
"""
