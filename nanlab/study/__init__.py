"""Takes a plan to a finished results folder: in this process, on a shared folder, or on Ray.

Imports `engine` and the rooms above it.
"""
