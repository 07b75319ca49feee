"""Rules: what a primitive does to abstract values, by family."""
