"""Three ways for channels to leave a small residual network while it learns the digits, under one budget and one seed.

    python examples/decay_digits.py --epochs 30 --method hesso

Prints, for units that leave at once, that decay, and that decay and may be released: test accuracy after the last
epoch, what remains, how many units were released and how many of those stayed. A run takes seconds; no difference that
this script shows is larger than the noise between seeds.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch.optim import SGD

import secateur
from secateur.data import load
from secateur.measures import accuracy
from secateur.methods import DHSPG, HESSO, GateDecorator, GroupSparse, Iterative
from secateur.removal import Decay, Immediate, Rectify
from secateur.zoo.networks import model

METHODS = {
    "iterative": Iterative,
    "group_sparse": GroupSparse,
    "dhspg": DHSPG,
    "hesso": HESSO,
    "gate_decorator": GateDecorator,
}


def compare(
    method: str = "hesso", epochs: int = 30, steps: int = 25, budget: str = "30% macs", seed: int = 0
) -> dict[str, dict[str, float]]:
    """Removal policy -> what came of it: accuracy, share of MACs, units released and those of them that stayed."""
    data = load("digits", batch_size=64, seed=seed)
    policies = {"at once": Immediate(), "decay": Decay(steps), "decay and rectify": Decay(steps, Rectify())}
    found = {}
    for name, removal in policies.items():
        torch.manual_seed(seed)
        net = model("resnet8", shape=data.shape)
        groups = secateur.groups(net, torch.zeros(1, *data.shape))
        rounds = {} if method == "dhspg" else {"rounds": 4}
        pruner = METHODS[method](groups=groups, budget=budget, removal=removal, start=0.2, stop=0.6, **rounds)
        history = secateur.fit(
            net,
            data,
            epochs=epochs,
            optimizer=partial(SGD, lr=0.1, momentum=0.9, weight_decay=5e-4),
            methods=[pruner],
            seed=seed,
            validate=False,
            progress=False,
        )
        fought = pruner.story.fought_for()
        found[name] = {
            "accuracy": accuracy(history.model, data.test).value,
            "macs": pruner.plan.reached.macs / pruner.plan.dense.macs,
            "released": len(fought),
            "stayed": sum(stayed for *_, stayed in fought),
        }
    return found


def main() -> None:
    """Print what `compare` found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="hesso")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--steps", type=int, default=25, help="of the decay")
    parser.add_argument("--budget", default="30% macs")
    parser.add_argument("--seed", type=int, default=0)
    for name, row in compare(**vars(parser.parse_args())).items():
        print(
            f"{name:18} {100 * row['accuracy']:5.2f} % test accuracy, {100 * row['macs']:.1f} % of MACs, "
            f"{row['released']:.0f} units released, {row['stayed']:.0f} of them stayed"
        )


if __name__ == "__main__":
    main()
