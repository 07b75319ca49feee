"""Verdict -> the user's experiment tracker; no tracker is imported."""

from __future__ import annotations

from typing import Any

_TAG = "nanlab/verdict"


def log_verdict(verdict: Any, tracker: Any, *, step: int | None = None) -> None:
    """Log a verdict, or a fault with its verdict, to Weights & Biases or TensorBoard.

    Args:
        verdict: what `nanlab.pinpoint` returns, or any object whose text says what was found.
        tracker: a Weights & Biases run, or a TensorBoard writer: anything with `add_text(tag,
            text, step)` (PyTorch, tensorboardX), with `text(tag, text, step)` (Flax's
            SummaryWriter), or with a `summary` to set items of and `log(dict)`.
        step: the training step.

    Raises:
        TypeError: the tracker has none of these methods.
    """
    text = str(verdict)
    block = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown's for code
    if hasattr(tracker, "add_text"):
        tracker.add_text(_TAG, block, step)
    elif hasattr(tracker, "text"):
        tracker.text(_TAG, block, step or 0)
    elif hasattr(tracker, "log") and hasattr(tracker, "summary"):
        # A run's log takes numbers; text that is read as a whole belongs into its summary.
        tracker.summary[_TAG] = text
        tracker.log({"nanlab/fault": 1}, **({} if step is None else {"step": step}))
        if hasattr(tracker, "alert"):
            tracker.alert(title="nanlab: a fault", text=text)
    else:
        raise TypeError(
            f"{type(tracker).__name__} is no tracker that nanlab knows: pass a Weights & Biases "
            "run (wandb.run) or a TensorBoard SummaryWriter"
        )
