"""A small GPT-2 whose attention heads and neurons are masked while it trains, and cut out at the end.

    python examples/transformers_text.py

The text is made up: every line counts up the alphabet from a random letter by a random stride, so that two letters
tell the rest. The masks are exact, so the loss of the cut model is that of the masked one.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

import secateur
from secateur.adapters.transformers import SecateurCallback, SecateurTrainer
from secateur.training import State

LETTERS = 26


class Counting(Dataset[dict[str, Tensor]]):
    """Lines of letters as tokens; the labels are the line itself."""

    def __init__(self, lines: int, length: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        start = torch.randint(LETTERS, (lines, 1), generator=generator)
        stride = torch.randint(1, 6, (lines, 1), generator=generator)
        self.tokens = (start + stride * torch.arange(length)) % LETTERS

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


class MaskHeadsAndNeurons:
    """At half of the training, masks what matters least for half of the MACs in heads and neurons, and holds it."""

    def __init__(self, example: dict[str, Tensor], budget: str) -> None:
        self.example, self.budget = example, budget
        self.masks: secateur.Masks | None = None

    def before_step(self, state: State) -> None:
        """The gradients of what is masked are zero before they are clipped."""
        if self.masks is not None:
            self.masks.before_step()

    def after_step(self, state: State) -> None:
        """What is masked is zero again; halfway, it is chosen."""
        if self.masks is None and state.progress >= 0.5:
            groups = secateur.groups(state.model, self.example)
            width = [group.name for group in groups if group.proof != "exact"]  # the stream that layer norms see
            self.plan = secateur.plan(groups, budget=self.budget, round_to=1, keep=width)
            self.masks = secateur.Masks(groups, self.plan)
        if self.masks is not None:
            self.masks.after_step(state.optimizer)


def main(
    steps: int = 300, hidden: int = 32, budget: str = "60% macs", seed: int = 0, folder: str | None = None
) -> dict[str, float]:
    """The loss on unseen lines: before training, masked, and cut; parameters before and after."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=LETTERS, n_positions=16, n_embd=hidden, n_layer=2, n_head=4, use_cache=False,
        bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    lines, unseen = Counting(2000, 12, seed=seed), Counting(200, 12, seed=seed + 1)
    method = MaskHeadsAndNeurons({"input_ids": lines.tokens[:1]}, budget)
    with tempfile.TemporaryDirectory() as temporary:
        arguments = TrainingArguments(
            output_dir=folder or temporary, max_steps=steps, per_device_train_batch_size=32, learning_rate=3e-3,
            use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, seed=seed,
        )  # fmt: skip
        callback = SecateurCallback([method])
        trainer = SecateurTrainer(model, arguments, train_dataset=lines, eval_dataset=unseen, callbacks=[callback])
        untrained = trainer.evaluate()["eval_loss"]
        trainer.train()
        masked = trainer.evaluate()["eval_loss"]
        assert method.masks is not None
        small = secateur.slim(method.masks.groups, method.plan)
        cut = SecateurTrainer(small, arguments, eval_dataset=unseen).evaluate()["eval_loss"]
    result = {
        "untrained loss": untrained,
        "masked loss": masked,
        "cut loss": cut,
        "dense parameters": sum(parameter.numel() for parameter in model.parameters()),
        "slim parameters": sum(parameter.numel() for parameter in small.parameters()),
    }
    for name, value in result.items():
        print(f"{name:>16}  {value:,.4g}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
