"""Attacks of other packages, torchattacks (arXiv 2010.01950) and foolbox (arXiv 1707.04131), where they are installed.

They take the place of `secateur.measures.adversarial.Attack` and keep to the same terms: images in [0, 1], changed by
at most `epsilon` a value. What a package gives back is held to that, since not every attack minds a bound.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.measures.adversarial import Network

SLACK = 1e-5
"""How far a change may lie beyond its bound by rounding."""


@dataclass(frozen=True)
class LibraryAttack:
    """An attack by name, "torchattacks:AutoAttack" or "foolbox:LinfDeepFoolAttack", called as `Attack` is.

    `options` are the parameters that its own class takes besides the model and the bound. Random numbers come from
    `seed`; the global stream is left as it was. Raises `InputError` where the package is not installed or has no such
    attack, and for one that changes images beyond the bound.

    >>> attack = LibraryAttack("torchattacks:AutoAttack", epsilon=8 / 255, options={"version": "standard"})
    >>> adversarial_right(network, images, labels, attack)
    """

    name: str
    epsilon: float = 8 / 255
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1:
            raise InputError(f"The 'epsilon' of an attack must be a float in (0, 1]. Got {self.epsilon!r} instead.")
        package, _, attack = self.name.partition(":")
        if package not in PACKAGES or not attack:
            raise InputError(
                f"An attack of another package is named PACKAGE:CLASS with a package out of {', '.join(PACKAGES)}. "
                f"Got {self.name!r} instead."
            )
        try:
            home = importlib.import_module(PACKAGES[package][0])
        except ImportError as error:
            raise InputError(f"{self.name!r} needs the package {package}: pip install {package}.") from error
        if not isinstance(getattr(home, attack, None), type):
            near = difflib.get_close_matches(attack, [n for n in dir(home) if n[0].isupper()], n=1)
            raise InputError(f"{package} has no attack {attack!r}.{f' Did you mean {near[0]!r}?' if near else ''}")

    def __call__(self, network: Network, images: Tensor, labels: Tensor) -> Tensor:
        """Images in [0, 1] changed so that `network`, which takes images in [0, 1], is wrong about them."""
        package, _, attack = self.name.partition(":")
        home, run = PACKAGES[package]
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.enable_grad():
            torch.manual_seed(self.seed)
            kind = getattr(importlib.import_module(home), attack)
            try:
                changed = run(kind, _Module(network).eval(), images, labels, self.epsilon, dict(self.options)).detach()
            except TypeError as error:
                raise InputError(f"{self.name!r} cannot be run with a bound: {error}.") from error
        furthest = float((changed - images).abs().max()) if len(images) else 0.0
        if not furthest <= self.epsilon + SLACK:
            raise InputError(
                f"{self.name!r} changed a value by {furthest:.4g}, beyond the epsilon of {self.epsilon:.4g}. "
                "Take an attack that is bounded in l-infinity."
            )
        return changed.clamp(0, 1)


class _Module(nn.Module):
    """A network as the module that packages ask for."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = [network]  # in a list: its modes and gradients are not the package's to change

    def forward(self, images: Tensor) -> Tensor:
        return self._network[0](images)


Run = Callable[[Any, nn.Module, Tensor, Tensor, float, dict[str, Any]], Tensor]


def _torchattacks(
    kind: Any, module: nn.Module, images: Tensor, labels: Tensor, epsilon: float, options: dict[str, Any]
) -> Tensor:
    attack = kind(module, eps=epsilon, **options)
    attack.set_device(images.device)  # it looks for a parameter to learn it, and there is none
    result: Tensor = attack(images, labels)
    return result


def _foolbox(
    kind: Any, module: nn.Module, images: Tensor, labels: Tensor, epsilon: float, options: dict[str, Any]
) -> Tensor:
    foolbox = importlib.import_module("foolbox")
    known = foolbox.PyTorchModel(module, bounds=(0, 1), device=images.device)
    result: Tensor = kind(**options)(known, images, labels, epsilons=epsilon)[1]
    return result


PACKAGES: dict[str, tuple[str, Run]] = {
    "torchattacks": ("torchattacks", _torchattacks),
    "foolbox": ("foolbox.attacks", _foolbox),
}
