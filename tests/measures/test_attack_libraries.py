"""Attacks of other packages: called on the project's terms, and held to them."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.measures.adversarial import adversarial_right
from secateur.measures.attack_libraries import LibraryAttack
from secateur.run.evaluation import Settings


class Shifted:
    """An attack after torchattacks: every value goes up by `factor` times the bound, and a little noise."""

    def __init__(self, model: nn.Module, eps: float, factor: float = 1.0) -> None:
        assert not model.training
        self.model, self.step, self.device = model, eps * factor, None

    def set_device(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        assert self.device == images.device
        assert self.model(images).requires_grad or torch.is_grad_enabled()
        return images + self.step * (1 - 1e-3 * torch.rand(images.shape))


class Unbounded:
    """An attack without a bound among its parameters."""

    def __init__(self, model: nn.Module, c: float = 1.0) -> None:
        del model, c


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", SimpleNamespace(Shifted=Shifted, Unbounded=Unbounded))


def network(images: Tensor) -> Tensor:
    """Class 1 where the mean is above a half."""
    mean = images.flatten(1).mean(1) - 0.5
    return torch.stack([-mean, mean], dim=1)


def images(*means: float) -> Tensor:
    return torch.tensor(means).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


@pytest.mark.usefixtures("package")
def test_an_attack_by_name_takes_the_place_of_our_own() -> None:
    attack = LibraryAttack("torchattacks:Shifted", epsilon=0.1)
    assert adversarial_right(network, images(0.3, 0.45, 0.6), torch.tensor([0, 0, 1]), attack).tolist() == [1, 0, 1]


@pytest.mark.usefixtures("package")
def test_its_random_numbers_are_its_own() -> None:
    attack, shown = LibraryAttack("torchattacks:Shifted", 0.1, seed=3), images(0.2, 0.4)
    before = torch.get_rng_state()
    first, second = (attack(network, shown, torch.zeros(2).long()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    other = LibraryAttack("torchattacks:Shifted", 0.1, seed=4)(network, shown, torch.zeros(2).long())
    assert not torch.equal(first, other)


@pytest.mark.usefixtures("package")
def test_a_change_beyond_the_bound_is_an_error_and_one_beyond_white_is_not() -> None:
    with pytest.raises(InputError, match=r"changed a value by 0\.\d+, beyond the epsilon of 0\.1"):
        LibraryAttack("torchattacks:Shifted", 0.1, {"factor": 2.001})(network, images(0.2), torch.zeros(1).long())
    changed = LibraryAttack("torchattacks:Shifted", 0.1)(network, images(0.99), torch.ones(1).long())
    assert changed.max() == 1


@pytest.mark.usefixtures("package")
def test_what_cannot_be_run_is_told_before_or_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no attack 'Shiftet'\. Did you mean 'Shifted'"):
        LibraryAttack("torchattacks:Shiftet")
    with pytest.raises(InputError, match="cannot be run with a bound"):
        LibraryAttack("torchattacks:Unbounded")(network, images(0.2), torch.zeros(1).long())
    with pytest.raises(InputError, match="PACKAGE:CLASS"):
        LibraryAttack("cleverhans:FGM")
    with pytest.raises(InputError, match="epsilon"):
        LibraryAttack("torchattacks:Shifted", epsilon=0)
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(InputError, match="pip install torchattacks"):
        Settings(attack="torchattacks:Shifted")
    with pytest.raises(InputError, match="'pgd' or 'apgd'"):
        Settings(attack="fgsm")


@pytest.mark.parametrize("name", ["torchattacks:PGD", "foolbox:LinfPGD"])
def test_real_packages_break_what_can_be_broken(name: str) -> None:
    pytest.importorskip(name.partition(":")[0])
    labels = torch.tensor([1, 1, 1, 0, 0])
    right = adversarial_right(
        network, images(0.53, 0.58, 0.62, 0.46, 0.3), labels, LibraryAttack(name, 0.05, {"steps": 100})
    )
    assert right.tolist() == [False, True, True, False, True]
