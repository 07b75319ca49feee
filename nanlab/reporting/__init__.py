"""Results -> what people read and cite: report, figures, tables, data package, citation.

Reads the files of a results folder, of a finished study or a running one, without JAX.
"""
