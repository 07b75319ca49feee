"""The public verbs, imported lazily: importing nanlab does not import JAX."""

__version__ = "0.1.0"
