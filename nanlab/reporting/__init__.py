"""Tables of a study -> what people read and cite: report, figures, tables, data package, citation.

Reads files only, those of a finished study or of one that is running.
"""
