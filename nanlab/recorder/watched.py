"""A jitted function -> one that writes its calls on a recorder's tape."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
from jax.tree_util import keystr, tree_flatten_with_path

from nanlab.backend.dispatch import donated_names
from nanlab.backend.finiteness import FINITE
from nanlab.backend.jaxpr import trace_state_clean
from nanlab.recorder.arrays import is_array, is_metric
from nanlab.recorder.frameworks import Outer, UserCall, inner_attribute
from nanlab.recorder.plan import CallPlan, Outputs
from nanlab.recorder.scan_calls import ScanCalls
from nanlab.recorder.tape import Check

if TYPE_CHECKING:
    from nanlab.recorder.recording import Recording


@dataclass(kw_only=True)
class CallLayout:
    """What is known of a function's arguments of one structure.

    Attributes:
        feeders: for each leaf the outputs (function, index) that have fed it; None for outside.
        start: the codes at the first call, None until then and if there are no floats.
        inherits: leaves that were state already at that call, whose codes then say nothing.
        user_call: rebuilds the user's own call from the leaves; None if that is the same.
    """

    feeders: dict[int, set[tuple[WatchedFunction, int] | None]] = field(
        default_factory=dict[int, Any]
    )
    start: Check | None = None
    inherits: set[int] = field(default_factory=set[int])
    user_call: UserCall | None = None
    is_begun: bool = False

    @cached_property
    def codes(self) -> dict[int, int]:
        """What the leaves held when recording began, where that was not finite."""
        if self.start is None:
            return {}
        pairs = zip(self.start.places, self.start.codes.read(), strict=True)
        return {p: code for p, code in pairs if code != FINITE and p not in self.inherits}


class WatchedFunction:
    """A jitted function whose calls go on a tape.

    Args:
        recording: what records it.
        jitted: the function; what is called is this very object.
        name: qualified name of the user's function.
        source: jitted function that the verdict is made of, if it is not this one.

    Attributes:
        calls: number of calls so far.
        recent: outputs of the last calls, the latest first.
        metrics: indices of the outputs that are read after each call.
        state: index of an output that is state -> where it is fed: (function, structure, leaf).
        own: index of an output -> the leaf of the same function that it is fed back to.
        scans: runs calls that are one long scan in chunks; None if the function has no such calls.
        whole: why the last call did not run in chunks; "" if it did.
    """

    def __init__(self, recording: Recording, jitted: Any, name: str, source: Any = None) -> None:
        self.recording, self.jitted, self.name, self.source = recording, jitted, name, source
        self.calls = 0
        self.scans: ScanCalls | None = ScanCalls(jitted, recording.options)
        self.whole = "it has not been called yet"
        self.layouts: dict[Any, CallLayout] = {}
        self._plans: dict[Any, list[CallPlan]] = {}
        self._latest: CallPlan | None = None  # it most often fits the next call, too
        self._masks: dict[Any, list[bool]] = {}
        self.forget()
        functools.update_wrapper(self, jitted, updated=())

    @property
    def module(self) -> str:
        """The name of the module that the function is defined in."""
        return str(getattr(self.source or self.jitted, "__module__", "") or "")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, on record."""
        __tracebackhide__ = True
        if self.recording.is_idle or not trace_state_clean():
            return self.jitted(*args, **kwargs)
        return self.recording.call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.jitted, name)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def forget(self) -> None:
        """Forget what the outputs are: a new training begins."""
        self.recent: deque[Outputs] = deque(maxlen=1)
        self.metrics: list[int] = []
        self.names: list[str] = []
        self.count = -1
        self.fed: set[int] = set()
        self.muted: dict[int, int] = {}
        self.state: dict[int, set[tuple[WatchedFunction, Any, int]]] = {}
        self.own: dict[int, int] = {}
        self.layouts.clear()
        self._plans.clear()
        self._latest = None

    # Plans.

    def plan_of(
        self, tree: Any, leaves: list[Any], version: int
    ) -> tuple[CallPlan | None, tuple[int, ...] | None]:
        """Return the plan that these arguments follow, and the numbers of the outputs they are."""
        functions = self.recording.tape.functions
        latest = self._latest
        if latest is not None and latest.version == version and latest.tree == tree:
            bases = latest.bases(leaves)
            if bases is not None and not latest.overlooks(leaves, functions):
                return latest, bases
        for plan in self._plans.get(tree, ()):
            if plan.version == version:
                bases = plan.bases(leaves)
                if bases is not None and not plan.overlooks(leaves, functions):
                    self._latest = plan
                    return plan, bases
        return None, None

    def depth_used(self, version: int) -> int:
        """Return how many calls ago arguments were computed, beyond the last call."""
        plans = [p for plans in self._plans.values() for p in plans if p.version == version]
        return max((age for plan in plans for _, age in plan.pairs), default=0)

    def add(self, plan: CallPlan, version: int) -> None:
        """Add a plan; those with the most leaves fed are tried first."""
        plan.version = version
        plans = [p for p in self._plans.get(plan.tree, ()) if p.version == version]
        self._plans[plan.tree] = sorted([*plans, plan], key=lambda p: len(p.outside))[:16]
        layout = self.layouts.setdefault(plan.tree, CallLayout())
        if not layout.is_begun:
            for place in plan.outside:
                layout.feeders.setdefault(place, set()).add(None)
        for (producer, _), pairs in plan.pairs.items():
            used = {index for _, index in pairs}
            producer.fed |= used
            producer.metrics = [i for i in producer.metrics if i not in used]
            for place, index in pairs:
                if not layout.is_begun and index in producer.state:
                    layout.inherits.add(place)
                layout.feeders.setdefault(place, set()).add((producer, index))
                if producer is self:
                    self.own[index] = place
                if self.is_state(plan.tree, place):
                    producer.state.setdefault(index, set()).add((self, plan.tree, place))

    def is_state(self, tree: Any, place: int) -> bool:
        """Return whether an argument leaf is state: what a call returns and a later one takes.

        Gradients are no state: they always come from one other function. State comes from outside
        first and from outputs later, from the function itself, or from two functions.
        """
        producers = {feeder and feeder[0] for feeder in self.layouts[tree].feeders.get(place, ())}
        return self in producers or len(producers) > 1

    @property
    def is_choosy(self) -> bool:
        """Whether the program has gone on with another state than the last one before now."""
        return any(
            len([p for p in plans if p.version == plans[0].version]) > 1
            for plans in self._plans.values()
        )

    def takers(self, index: int) -> set[WatchedFunction]:
        """Return the functions that take an output that is state."""
        return {function for function, _, _ in self.state.get(index, ())}

    def allowed(self, index: int) -> int:
        """Return the worst that an output may hold: what it held when recording began."""
        ends = self.state.get(index, ())
        return max((w.layouts[tree].codes.get(p, FINITE) for w, tree, p in ends), default=FINITE)

    def allowed_in(self, tree: Any, place: int) -> int:
        """Return the worst that an argument leaf may hold."""
        layout = self.layouts[tree]
        fed = [f[0].allowed(f[1]) for f in layout.feeders.get(place, ()) if f is not None]
        return max(fed, default=FINITE) if fed else layout.codes.get(place, FINITE)

    # Outputs.

    @property
    def judged(self) -> Collection[int]:
        """The outputs that make a call faulty: state, or all if no function returns state."""
        is_known = any(function.state for function in self.recording.tape.functions)
        return self.state if is_known else range(self.count)

    def last_outputs(self) -> Iterator[tuple[int, int, Any]]:
        """Yield (number, index, array) of what the last calls returned and is still there."""
        for outputs in self.recent:
            for index, x in enumerate(outputs.leaves):
                if is_array(x) and not x.is_deleted():
                    yield outputs.base + index, index, x

    def learn(self, out: Any, leaves: list[Any]) -> None:
        """Learn which outputs are small, and what they are called."""
        self.count = len(leaves)
        self.names = [keystr(path) or "output" for path, _ in tree_flatten_with_path(out)[0]]
        self.metrics = [i for i, x in enumerate(leaves) if i not in self.fed and is_metric(x)]

    def donated(self, tree: Any, leaves: Sequence[Any]) -> list[bool]:
        """Return for each argument leaf whether it may be donated."""
        mask = self._masks.get(tree)
        if mask is None:
            mask = self._masks[tree] = _donated(self.jitted, tree, leaves)
        return mask


def _donated(jitted: Any, tree: Any, leaves: Sequence[Any]) -> list[bool]:
    infos = getattr(jitted, "args_info", None)
    if infos is not None:  # compiled ahead of time
        flags = [i.donated for i in jax.tree.leaves(infos, is_leaf=lambda x: hasattr(x, "donated"))]
        return flags if len(flags) == len(leaves) else [True] * len(leaves)
    donated = donated_names(jitted)
    if donated is None:  # pmap does not say what it donates, so all of it may be
        return [True] * len(leaves)
    indices, names = donated
    args, kwargs = tree.unflatten(range(len(leaves)))
    mask = [False] * len(leaves)
    for side in ([args[i] for i in indices if i < len(args)], [kwargs.get(n) for n in names]):
        for place in jax.tree.leaves(side):
            mask[place] = True
    return mask


# What is watched.


def watched_function(recording: Recording, function: Any, source: Any = None) -> Any:
    """Return a function like this one whose calls go on the recorder's tape.

    Raises:
        TypeError: it is not a compiled function.
    """
    attribute = inner_attribute(function)
    if isinstance(function, WatchedFunction):
        function = function.jitted
    elif attribute is not None:
        inner: Any = getattr(function, attribute)
        inner = inner.jitted if isinstance(inner, WatchedFunction) else inner
        watched = WatchedFunction(recording, inner, _name_of(function), source or function)
        return Outer(function, attribute, recording.tape.add(watched))
    is_compiled = isinstance(function, jax.stages.Compiled)
    if not is_compiled and not (callable(function) and hasattr(function, "lower")):
        name = getattr(function, "__name__", None) or repr(function)
        raise TypeError(
            f"{name} is not compiled: watch what jax.jit, jax.pmap, nnx.jit or eqx.filter_jit "
            f"returns, as nanlab.watch(jax.jit({name}))"
        )
    return recording.tape.add(WatchedFunction(recording, function, _name_of(function), source))


def _name_of(function: Any) -> str:
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    if name is None and isinstance(function, jax.stages.Compiled):
        return "the compiled function"
    return str(name or type(function).__name__)
