"""Which phase of which step the run is in, told from what it does: a model is called, autograd runs, an optimizer
steps."""

from __future__ import annotations

from memgraph.capture.ledger import Ledger


class Stage:
    """The current phase. `load` until the first input or forward, then for each step `input`, `forward`, `backward`,
    `update` (between backward and optimizer: clipping, unscaling, the next micro-batch) and `optimizer`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.step = 0
        self.name = ""
        self._first = 0
        self.rounds: list[int] = []
        """At which events the first model of a forward was called, and called again."""
        self._stepping = self._stepped = False
        self.current = -1
        """The index of the phase that it is now."""
        self.set("load")

    def set(self, name: str) -> None:
        """Enter a phase."""
        if name != self.name:
            self.name = name
            self._ledger.enter(name, self.step)
            self.current = len(self._ledger.phases) - 1

    def next_step(self) -> None:
        """A new step begins with its input."""
        self.step += 1
        self._stepped = False
        self.name = ""
        self.set("input")

    @property
    def in_backward(self) -> bool:
        return self.name == "backward"

    def model_called(self) -> bool:
        """An outermost module's forward starts. True if that begins a forward phase, and not a recomputation."""
        if self.name in ("optimizer",):
            return False
        if self.name == "load" or self._stepped:
            self.next_step()
        self.set("forward")
        return True

    def called_again(self, model: int) -> bool:
        """Whether a model is called that was the first one of this forward: another round begins, in the same forward,
        or after a backward while no optimizer has stepped. To be asked before `model_called`.

        Args:
            model: tells models apart.
        """
        without_steps = self.step == 1 and self.name in ("backward", "update")
        if self.name != "forward":
            self._first = model
        if model != self._first:
            return False
        self.rounds.append(len(self._ledger))
        return self.name == "forward" or without_steps

    def outside_autograd(self) -> int:
        """An op runs that is not a backward op; the index of its phase."""
        if self.name == "backward":
            self.set("update")
        return self.current

    def inside_autograd(self) -> int:
        """An op runs in autograd's backward; the index of its phase. An optimizer may step there, in a hook."""
        if not self._stepping:
            self.set("backward")
        return self.current

    def optimizer_starts(self) -> None:
        """`optimizer.step()` is called."""
        self._stepping = True
        self.set("optimizer")

    def optimizer_ends(self, *, inside_autograd: bool = False) -> None:
        """`optimizer.step()` returns; inside the backward, the step goes on until a model is called again."""
        self._stepping = False
        if inside_autograd:
            self._stepped = True
            self.set("backward")
        else:
            self.next_step()
