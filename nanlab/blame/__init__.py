"""Function, arguments -> blame: the detective. It knows nothing of grids, lanes or trainings."""
