"""A module that makes the recorded calls is told from one that does not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import secateur
from secateur.graph.trace import named_tensors, plain_kernels, record
from secateur.surgery.following import Follower
from secateur.surgery.replay import replay

X = torch.randn(2, 6)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 4)
        self.slope = 0.1

    def forward(self, x: Tensor) -> Tensor:
        hidden = nn.functional.leaky_relu(self.first(x), self.slope)
        a, b = hidden.view(-1, 2, 4).chunk(2, 1)
        return self.second(torch.cat([a, b], 1).flatten(1) * torch.tensor(2.0))


def follow(module: nn.Module, x: Tensor = X) -> tuple[bool, list[Tensor]]:
    """Whether a module follows the recording of `Net`; and what it returns."""
    recording = record(NET, ((X,), {}))
    own = {name: tensor for name, (_, tensor) in named_tensors(module).items()}
    follower = Follower(recording, own, [x], {})
    with torch.no_grad(), plain_kernels(), follower:
        out = [module(x)]
    return follower.arrived(out), out


NET = Net()


def test_the_recorded_module_follows_and_its_result_is_the_replay() -> None:
    arrived, out = follow(NET)
    tensors = {name: tensor for name, (_, tensor) in named_tensors(NET).items()}
    assert arrived
    assert torch.equal(out[0], replay(record(NET, ((X,), {})), tensors, [X])[0])


def test_other_weights_follow_too() -> None:
    assert follow(Net())[0]


def test_a_changed_number_is_noticed() -> None:
    net = Net()
    net.slope = 0.2
    assert not follow(net)[0]


def test_a_tensor_of_another_place_is_noticed() -> None:
    class Swapped(Net):
        def forward(self, x: Tensor) -> Tensor:
            hidden = nn.functional.leaky_relu(self.first(x), self.slope)
            a, b = hidden.view(-1, 2, 4).chunk(2, 1)
            return self.second(torch.cat([b, a], 1).flatten(1) * torch.tensor(2.0))

    assert not follow(Swapped())[0]


def test_another_constant_is_noticed() -> None:
    class Other(Net):
        def forward(self, x: Tensor) -> Tensor:
            hidden = nn.functional.leaky_relu(self.first(x), self.slope)
            a, b = hidden.view(-1, 2, 4).chunk(2, 1)
            return self.second(torch.cat([a, b], 1).flatten(1) * torch.tensor(3.0))

    assert not follow(Other())[0]


def test_calls_too_few_or_too_many_are_noticed() -> None:
    class More(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 0

    class Fewer(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(x)

    assert not follow(More())[0]
    assert not follow(Fewer())[0]


def test_another_result_is_noticed() -> None:
    class Earlier(Net):
        def forward(self, x: Tensor) -> Tensor:
            hidden = nn.functional.leaky_relu(self.first(x), self.slope)
            a, b = hidden.view(-1, 2, 4).chunk(2, 1)
            product = torch.cat([a, b], 1).flatten(1) * torch.tensor(2.0)
            self.second(product)
            return product

    assert not follow(Earlier())[0]


def test_views_that_turn_sizes_around_are_noticed() -> None:
    class Turned(Net):
        def forward(self, x: Tensor) -> Tensor:
            hidden = nn.functional.leaky_relu(self.first(x), self.slope)
            a, b = hidden.view(-1, 4, 2).chunk(2, 1)
            return self.second(torch.cat([a, b], 1).flatten(1) * torch.tensor(2.0))

    assert not follow(Turned())[0]


def test_random_numbers_are_never_followed() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(1)

    recording = record(Noisy(), ((X,), {}))
    follower = Follower(recording, {}, [X], {})
    with torch.no_grad(), plain_kernels(), follower:
        out = Noisy()(X)
    assert not follower.arrived([out])


def test_proofs_follow_slim_modules(monkeypatch: Any) -> None:
    arrived: list[bool] = []
    plain = Follower.arrived

    def spy(self: Follower, outputs: list[Tensor]) -> bool:
        arrived.append(plain(self, outputs))
        return arrived[-1]

    monkeypatch.setattr(Follower, "arrived", spy)
    found = secateur.groups(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)), X)
    small = secateur.slim(found, secateur.plan(found, budget="50% channels", allocation="uniform", round_to=1))
    proof = secateur.record(small).proof
    assert arrived == [True]
    assert proof.replayed == 0.0
    assert proof.masked <= 1e-12
