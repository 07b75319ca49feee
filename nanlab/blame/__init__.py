"""The detective: find the equation that made the first inf and the first NaN, and how.

It knows nothing of grids, lanes or trainings, and imports `backend` only. Its subpackages build on
each other in this order: `program`, `probes`, `diagnosis`, `explain`.
"""
