"""A training loop of one's own in which a network is masked, then cut, and trained on: the six moments as plain calls.

    python examples/plain_loop.py

A ResNet-8 learns scikit-learn's digits. After a third of the epochs half of its work is masked, and the masks are held
at zero through every step; after two thirds the masked network is cut to a smaller one in the middle of the training.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import SGD

import secateur
from secateur.data import Loader, load
from secateur.schedule import cosine
from secateur.training import Moments, State
from secateur.zoo import model as zoo_model


class MaskThenCut:
    """Masks the channels of least magnitude after epoch `mask`, cuts them out after epoch `cut`."""

    def __init__(self, example: Tensor, budget: str, mask: int, cut: int) -> None:
        self.example, self.budget, self.mask, self.cut = example, budget, mask, cut
        self.masks: secateur.Masks | None = None

    def before_step(self, state: State) -> None:
        """Gradients of what is masked do not count, neither for clipping nor for the optimizer."""
        if self.masks is not None:
            self.masks.before_step()

    def after_step(self, state: State) -> None:
        """What is masked stays exactly zero, its momentum with it."""
        if self.masks is not None:
            self.masks.after_step(state.optimizer)

    def epoch_end(self, state: State) -> None:
        """Choose what leaves; later, let it go."""
        if state.epoch == self.mask:
            groups = secateur.groups(state.model, self.example)
            self.plan = secateur.plan(groups, budget=self.budget, round_to=1)
            self.masks = secateur.Masks(groups, self.plan)
            self.masks.apply()
        elif state.epoch == self.cut and self.masks is not None:
            small = secateur.slim(self.masks.groups, self.plan, optimizer=state.optimizer)
            state.replace(small, optimizer=state.optimizer)
            self.masks = None


def train(state: State, loader: Loader) -> None:
    """The loop: whatever else a training needs has its place here, for it is ordinary code."""
    added = state.moments.setup(state)
    state.optimizer = SGD([{"params": state.model.parameters()}, *added], lr=0.1, momentum=0.9, weight_decay=5e-4)
    while state.epoch < state.epochs:
        state.begin_epoch()
        loader.set_epoch(state.epoch)
        for batch in loader:
            state.begin_step(batch)
            for _ in state.each_batch():
                loss, _ = state.objective()
                state.backward(loss)
            state.moments("before_step", state)
            state.optimizer_step()
            state.step, state.position = state.step + 1, state.position + 1
            state.moments("after_step", state)
        state.end_epoch()
        state.moments("epoch_end", state)
    state.moments("finish", state)


@torch.no_grad()
def accuracy(model: nn.Module, loader: Loader) -> float:
    """The share of images that the model names rightly."""
    model.eval()
    right = sum(int((model(inputs).argmax(1) == targets).sum()) for inputs, targets in loader)
    return right / loader.samples


def main(epochs: int = 9, width: int = 32, budget: str = "50% macs", seed: int = 0) -> dict[str, float]:
    """Parameters and MACs before and after, and the accuracy on the test images."""
    torch.manual_seed(seed)
    data = load("digits", seed=seed)
    dense = zoo_model("resnet8", width=width)
    example = torch.zeros(1, *data.shape)
    method = MaskThenCut(example, budget, mask=max(1, epochs // 3), cut=max(2, 2 * epochs // 3))
    state = State(
        dense,
        epochs=epochs,
        steps_per_epoch=len(data.train),
        moments=Moments([method]),
        schedule=partial(cosine, start=1.0, end=0.0),
        seed=seed,
    )
    train(state, data.train)
    made = secateur.record(state.model)
    assert made is not None
    result = {
        "dense macs": made.before["macs"],
        "slim macs": made.after["macs"],
        "dense parameters": sum(parameter.numel() for parameter in dense.parameters()),
        "slim parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "test accuracy": accuracy(state.model, data.test),
    }
    for name, value in result.items():
        print(f"{name:>16}  {value:,.4g}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
