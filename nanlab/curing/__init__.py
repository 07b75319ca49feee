"""Rewrites of the user's line that mend a fault, each checked by running it."""
