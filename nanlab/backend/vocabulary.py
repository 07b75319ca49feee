"""Words shared by tables, code and documentation, each with an explanation."""

from __future__ import annotations

from enum import StrEnum


class Word(StrEnum):
    """A string that carries its explanation.

    A member is declared as `NAME = "word", "Sentence."`; it equals the word, and `meaning` holds
    the sentence.
    """

    meaning: str

    def __new__(cls, word: str, meaning: str) -> Word:
        """Create the member for `word`."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        return member

    def __repr__(self) -> str:
        return repr(self.value)
