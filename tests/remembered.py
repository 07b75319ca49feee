"""A group's worker that is made once, so that the tests of a process share what it compiles."""

from typing import ClassVar

from nanlab.engine.group_runner import GroupRunner


class Remembered(GroupRunner):
    """A worker that is made once for each group and size, so that tests share what it compiles."""

    made: ClassVar = {}

    def __new__(cls, statics, *, runs=None, devices=None):
        at = (tuple(sorted(statics.items())), runs, tuple(devices or ()))
        return cls.made.setdefault(at, super().__new__(cls))

    def __init__(self, statics, *, runs=None, devices=None):
        if not hasattr(self, "lanes"):
            super().__init__(statics, runs=runs, devices=devices)
