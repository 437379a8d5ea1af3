"""A network under Lightning whose channels are driven to zero by group lasso, then cut in the middle of the training.

    python examples/lightning_digits.py

A ResNet-8 learns scikit-learn's digits. The penalty is the sum over channels of the norm of all that a channel owns
(Wen et al., Learning structured sparsity in deep neural networks, arXiv 1608.03665, equation 3); after half of the
epochs the channels of least magnitude leave, and the smaller network is trained on without the penalty.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

import secateur
from secateur.adapters.lightning import SecateurCallback
from secateur.data import Loader, load
from secateur.training import State
from secateur.zoo import model as zoo_model


class Digits(LightningModule):
    """An ordinary LightningModule; nothing in it knows of pruning."""

    def __init__(self, width: int, epochs: int) -> None:
        super().__init__()
        self.net = zoo_model("resnet8", width=width)
        self.accuracy = MulticlassAccuracy(10, average="micro")
        self.epochs = epochs

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        inputs, targets = batch
        return F.cross_entropy(self.net(inputs), targets)

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Count what is right."""
        inputs, targets = batch
        self.accuracy(self.net(inputs), targets)
        self.log("accuracy", self.accuracy)

    def configure_optimizers(self) -> tuple[list[SGD], list[CosineAnnealingLR]]:
        """Momentum, half a cosine."""
        optimizer = SGD(self.parameters(), lr=0.05, momentum=0.9)
        return [optimizer], [CosineAnnealingLR(optimizer, self.epochs)]


class LassoThenCut:
    """Group lasso until epoch `cut`, when what is smallest leaves."""

    def __init__(self, example: Tensor, budget: str, cut: int, strength: float = 1e-3) -> None:
        self.example, self.budget, self.cut, self.strength = example, budget, cut, strength

    def setup(self, state: State) -> None:
        """What is coupled to what."""
        self.groups: secateur.Groups | None = secateur.groups(state.model, self.example)

    def penalty(self, state: State) -> Tensor | None:
        """The sum of the channels' norms."""
        if self.groups is None:
            return None
        norms = [
            sum(
                member.reduce(self.groups.tensor(member.name).square()) for member in group.members if not member.buffer
            )
            for group in self.groups
        ]
        return self.strength * torch.stack([(norm + 1e-12).sqrt().sum() for norm in norms]).sum()

    def epoch_end(self, state: State) -> None:
        """The cut: the optimizer goes on with the smaller network, its momentum cut along."""
        if state.epoch == self.cut and self.groups is not None:
            plan = secateur.plan(self.groups, budget=self.budget, round_to=1)
            small = secateur.slim(self.groups, plan, optimizer=state.optimizer)
            state.replace(small, optimizer=state.optimizer)
            self.groups = None


def batches(loader: Loader, batch_size: int, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
    """All images of a loader in a DataLoader."""
    inputs, targets = (torch.cat(parts) for parts in zip(*loader, strict=True))
    return DataLoader(TensorDataset(inputs, targets), batch_size, shuffle=shuffle, drop_last=shuffle)


def main(epochs: int = 8, width: int = 32, budget: str = "50% macs", seed: int = 0) -> dict[str, float]:
    """Parameters before and after, and the accuracy on the test images."""
    torch.manual_seed(seed)
    data = load("digits", seed=seed, augment=False)
    module = Digits(width, epochs)
    dense = sum(parameter.numel() for parameter in module.net.parameters())
    method = LassoThenCut(torch.zeros(1, *data.shape), budget, cut=max(1, epochs // 2))
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        callbacks=[SecateurCallback([method])],
        gradient_clip_val=5.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, batches(data.train, 128, shuffle=True))
    accuracy = trainer.test(module, batches(data.test, 500), verbose=False)[0]["accuracy"]
    slim = sum(parameter.numel() for parameter in module.net.parameters())
    result = {"dense parameters": dense, "slim parameters": slim, "test accuracy": accuracy}
    for name, value in result.items():
        print(f"{name:>16}  {value:,.4g}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
