"""Name -> what a training is made of: plain tables of pure functions, one file a kind.

No file here imports JAX when it is itself imported (see `nanlab._lazy`), so that a grid can be
checked against the tables' names at once.
"""
