"""Instrumented programs: they report which of their values are not finite, or what they hold."""
