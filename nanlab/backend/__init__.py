"""JAX and the machine underneath: version differences, configuration, cores, memory and keys.

Imports no other room. Importing the room itself imports no JAX.
"""
