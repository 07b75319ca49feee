"""What the commands share: progress, Ctrl-C and exit statuses.

Imports every room above it.
"""
