"""The watch on a program that runs: every computation of JAX is looked at."""
