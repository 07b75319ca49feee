"""The input that breaks it: a search from harmless inputs, shrunk and examined."""
