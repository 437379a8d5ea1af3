"""The moments of a training step: how a pruning method takes part in a loop that knows nothing of it.

A method is any object with some of the functions of `Method`. They are looked up by name once, before training; a
moment that no method has costs nothing. `fit` calls them in the order of the list of methods, at these places:

    setup(state)                               before the optimizer is built
    for every epoch
        for every batch
            loss = loss(model(inputs), targets) + penalty(state)
            loss.backward()
            before_step(state)                 gradients are there, not yet clipped
            optimizer.step()
            after_step(state)                  weights moved
        epoch_end(state)                       before validation and the checkpoint
    finish(state)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from secateur.errors import InputError

if TYPE_CHECKING:
    from secateur.training.state import State

MOMENTS = ("setup", "penalty", "before_step", "after_step", "epoch_end", "finish")


class Method(Protocol):
    """What a method may have: write the functions it needs and no others; there is nothing to inherit from.

    On several devices every rank calls every moment, and what a method decides must be the same on all: draws come from
    `state.generator`, numbers made of `state.batch` are averaged (`secateur.ranks.mean_over_ranks`). A method that
    never needs a whole tensor can say so with an attribute `sharded = True`, and then goes with sharded weights.

    >>> class WeightDecay:
    ...     def before_step(self, state):
    ...         for parameter in state.model.parameters():
    ...             parameter.grad.add_(parameter, alpha=5e-4)
    """

    def setup(self, state: State) -> Iterable[dict[str, Any]] | None:
        """Prepare; parameter groups returned (the method's own parameters, with their lr) join the optimizer."""

    def penalty(self, state: State) -> Tensor | None:
        """A scalar added to the loss of `state.batch`."""

    def before_step(self, state: State) -> None:
        """Gradients are there; `state.closure()` gives those at other weights."""

    def after_step(self, state: State) -> None:
        """Weights moved, `state.step` counts the step; `state.replace(model)` swaps in a cut model."""

    def epoch_end(self, state: State) -> None:
        """All batches of an epoch were seen."""

    def finish(self, state: State) -> None:
        """Training is over."""

    def state_dict(self) -> Mapping[str, Any]:
        """What a resumed run needs: tensors, numbers, strings, and lists, tuples and dicts of them."""

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Called between `setup` and the loading of the weights: a method that had replaced the model replaces it here
        again (through the state that `setup` was given), so that the stored weights find the shapes they had.
        """


class Moments:
    """The functions of several methods, sorted by moment."""

    def __init__(self, methods: Sequence[Any] = ()) -> None:
        self.methods = tuple(methods)
        for method in self.methods:
            if isinstance(method, type) or not any(callable(getattr(method, name, None)) for name in MOMENTS):
                found = f"the class {method.__name__}" if isinstance(method, type) else type(method).__name__
                raise InputError(
                    f"Each of the 'methods' must be an object with one of {', '.join(MOMENTS)}. Got {found} instead."
                )
        self._at: dict[str, list[Callable[[State], Any]]] = {
            name: [getattr(method, name) for method in self.methods if hasattr(method, name)] for name in MOMENTS
        }

    def __call__(self, moment: str, state: State) -> None:
        """Let every method act that has this moment."""
        for act in self._at[moment]:
            act(state)

    def setup(self, state: State) -> list[dict[str, Any]]:
        """Let every method prepare; the parameter groups they bring, in order."""
        return [dict(group) for act in self._at["setup"] for group in act(state) or ()]

    def penalty(self, state: State, loss: Tensor) -> Tensor:
        """`loss` plus the penalties of all methods."""
        for act in self._at["penalty"]:
            penalty = act(state)
            loss = loss if penalty is None else loss + penalty
        return loss

    def state_dict(self) -> list[dict[str, Any]]:
        """The stored state of every method, an empty one for a method without."""
        return [dict(method.state_dict()) if hasattr(method, "state_dict") else {} for method in self.methods]

    def load_state_dict(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Give every method its state back."""
        for method, state in zip(self.methods, saved, strict=True):
            if hasattr(method, "load_state_dict"):
                method.load_state_dict(state)
