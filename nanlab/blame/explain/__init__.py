"""The verdict, its text, the usual cures and the reproducer."""
