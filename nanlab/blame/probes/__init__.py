"""Instrumented programs that report which values are not finite, or the values themselves."""
