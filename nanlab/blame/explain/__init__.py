"""The verdict, its text, the usual remedies and the reproducer."""
