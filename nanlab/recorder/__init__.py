"""The flight recorder of a user's own training loop: a tape of its calls, replayed on a fault."""
