"""How a run ended."""

from __future__ import annotations

from nanlab.backend.vocabulary import Word


class Outcome(Word):
    """How a run ended, from best to worst."""

    TRAINED = "trained", "Finite, and better than the best constant predictor by the margin."
    STALLED = "stalled", "Finite, and not better than the best constant predictor."
    DIVERGED = "diverged", "Finite, not trained, and the loss grew beyond the factor."
    RECOVERED = "recovered", "A fault occurred, but the run was finite at its end."
    INF = "inf", "Not finite at the end, without any NaN."
    NAN = "nan", "A NaN occurred."
    CRASHED = "crashed", "The software failed; the run is repeated on resume."


RAN = tuple(outcome for outcome in Outcome if outcome != Outcome.CRASHED)
"""The outcomes of runs that the software completed."""

FAILED = (Outcome.NAN, Outcome.INF, Outcome.RECOVERED)
"""The outcomes of runs with a fault."""
