"""What people read and cite of a finished study: report, figures, tables, data package, citation.

Reads the files of a results folder, of a finished study or a running one. Imports `grid`,
`results` and words of `blame`; nothing here imports JAX.
"""
