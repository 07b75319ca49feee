"""Tables of the pure functions that make up a training, one file a kind, each with its source.

Imports `backend` only. No file here imports JAX when it is itself imported (see
`nanlab.backend.lazy`), so that a grid can be checked against the tables' names quickly.
"""
