"""The two things a method may ask of the state: the batch once more, and another model."""

from __future__ import annotations

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
from tinynet import QUIET, Net, batches, net, same_tensors
from torch import nn
from torch.optim import SGD, AdamW

from secateur.errors import InputError, TrainingError
from secateur.training import Moments, State, fit


def started(model: nn.Module, **kw) -> State:
    state = State(model, epochs=2, steps_per_epoch=4, moments=Moments([_Quiet()]), **kw)
    state.optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    state.begin_epoch()
    return state


class _Quiet:
    def epoch_end(self, state) -> None:
        """There, so that a closure may be asked for."""


class TestClosure:
    def test_it_gives_the_steps_own_loss_and_gradients_again(self) -> None:
        state = started(net())
        state.begin_step(batches(1)[0])
        loss, _ = state.objective()
        loss.backward()
        gradients = [parameter.grad.clone() for parameter in state.model.parameters()]
        again = state.closure()
        assert torch.equal(again, loss.detach())  # dropout drew the same masks
        assert all(torch.equal(p.grad, g) for p, g in zip(state.model.parameters(), gradients, strict=True))

    def test_it_leaves_buffers_and_streams_untouched(self) -> None:
        class Noisy(Net):
            def forward(self, x):
                return super().forward(x + random.random() + np.random.rand())

        state = started(Noisy())
        state.begin_step(batches(1)[0])
        loss, _ = state.objective()
        identities = [id(buffer) for buffer in state.model.buffers()]
        buffers = [buffer.clone() for buffer in state.model.buffers()]
        streams = torch.get_rng_state(), state.generator.get_state()
        others = random.getstate(), np.random.get_state()[1].tolist()
        assert torch.equal(state.closure(), loss.detach())
        assert [id(buffer) for buffer in state.model.buffers()] == identities
        assert all(torch.equal(now, then) for now, then in zip(state.model.buffers(), buffers, strict=True))
        assert torch.equal(torch.get_rng_state(), streams[0])
        assert torch.equal(state.generator.get_state(), streams[1])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == others
        loss.backward()  # the graph recorded before the closure is still good

    def test_everything_is_put_back_when_the_model_raises(self) -> None:
        class Failing(Net):
            fails = False

            def forward(self, x):
                out = super().forward(x)
                if self.fails:
                    raise KeyError("inside")
                return out

        state = started(Failing())
        state.begin_step(batches(1)[0])
        state.objective()
        buffers = [buffer.clone() for buffer in state.model.buffers()]
        stream = torch.get_rng_state()
        state.model.fails = True
        with pytest.raises(KeyError):
            state.closure()
        assert all(torch.equal(now, then) for now, then in zip(state.model.buffers(), buffers, strict=True))
        assert torch.equal(torch.get_rng_state(), stream)

    def test_a_method_that_calls_it_without_moving_weights_changes_nothing(self) -> None:
        class Look:
            def before_step(self, state) -> None:
                state.closure()

        plain, looked = net(), net()
        fit(plain, batches(), epochs=2, **QUIET)
        fit(looked, batches(), epochs=2, methods=[Look()], **QUIET)
        assert same_tensors(plain.state_dict(), looked.state_dict())

    def test_it_is_taken_at_the_weights_as_they_are(self) -> None:
        state = started(nn.Sequential(nn.Flatten(), nn.Linear(25, 3)))
        state.begin_step(batches(1)[0])
        before = state.closure()
        with torch.no_grad():
            state.model[1].weight.mul_(-3)
        assert state.closure() > before

    def test_without_a_batch_it_says_so(self) -> None:
        with pytest.raises(TrainingError, match=r"state.batch must be set"):
            started(net()).closure()


def stepped(model: nn.Module, optimizer) -> State:
    state = State(model, epochs=1, steps_per_epoch=4)
    state.optimizer = optimizer(model.parameters())
    state.begin_step(batches(1)[0])
    state.objective()[0].backward()
    state.optimizer.step()
    return state


class TestReplace:
    def test_a_copy_goes_on_exactly_where_the_model_stood(self) -> None:
        class Swap:
            def after_step(self, state) -> None:
                if state.step == 3:
                    self.old = state.model
                    state.replace(copy.deepcopy(state.model))

        for optimizer in (partial(SGD, lr=0.05, momentum=0.9), partial(AdamW, lr=0.01)):
            plain, swapped, method = net(), net(), Swap()
            fit(plain, batches(), epochs=2, **QUIET | {"optimizer": optimizer})
            history = fit(swapped, batches(), epochs=2, methods=[method], **QUIET | {"optimizer": optimizer})
            assert history.model is not swapped
            assert method.old is swapped
            assert same_tensors(history.model.state_dict(), plain.state_dict())
            assert not same_tensors(swapped.state_dict(), plain.state_dict())

    def test_state_is_kept_where_shapes_agree_and_fresh_elsewhere(self) -> None:
        state = stepped(net(width=4), partial(AdamW, lr=0.01))
        old = dict(state.model.named_parameters())
        kept = state.optimizer.state[old["head.bias"]]["exp_avg"]
        state.replace(net(width=2))
        new = dict(state.model.named_parameters())
        assert state.optimizer.state[new["head.bias"]]["exp_avg"] is kept
        assert new["conv.weight"] not in state.optimizer.state
        assert {id(p) for p in state.optimizer.param_groups[0]["params"]} == {id(p) for p in new.values()}
        assert not any(parameter in state.optimizer.state for parameter in old.values())
        state.objective()[0].backward()
        state.optimizer.step()

    def test_names_map_the_new_to_the_old(self) -> None:
        state = stepped(net(), partial(SGD, lr=0.1, momentum=0.9))
        kept = state.optimizer.state[state.model.conv.weight]["momentum_buffer"]
        model = nn.Sequential(copy.deepcopy(state.model))
        state.replace(model, names={f"0.{name}": name for name, _ in model[0].named_parameters()})
        assert state.optimizer.state[model[0].conv.weight]["momentum_buffer"] is kept

    def test_parameters_of_a_method_stay(self) -> None:
        model, own = net(), nn.Parameter(torch.ones(1))
        state = State(model, epochs=1, steps_per_epoch=1)
        state.optimizer = SGD([{"params": model.parameters()}, {"params": [own]}], lr=0.1)
        state.replace(net(width=2))
        assert [id(p) for p in state.optimizer.param_groups[1]["params"]] == [id(own)]

    def test_new_parameters_join_the_group_of_their_kind(self) -> None:
        class Grow:
            def after_step(self, state) -> None:
                if state.step == 1:
                    state.replace(
                        nn.Sequential(state.model, nn.Linear(3, 3), nn.BatchNorm1d(3)), names=self.names(state)
                    )
                    self.groups = state.optimizer.param_groups

            def names(self, state) -> dict[str, str]:
                return {f"0.{name}": name for name, _ in state.model.named_parameters()}

        grow = Grow()
        optimizer = partial(SGD, lr=0.1, weight_decay=0.1)
        history = fit(
            net(), batches(2), epochs=1, methods=[grow], decay_norm=False, optimizer=optimizer, progress=False
        )
        decays = {id(p): group["weight_decay"] for group in grow.groups for p in group["params"]}
        found = {name: decays[id(parameter)] for name, parameter in history.model.named_parameters()}
        assert {name for name, decay in found.items() if decay} == {"0.conv.weight", "0.head.weight", "1.weight"}

    def test_an_optimizer_given_must_move_all_of_it(self) -> None:
        state, model = stepped(net(), partial(SGD, lr=0.1)), net(width=2)
        with pytest.raises(InputError, match=r"It lacks conv.weight, norm.weight, norm.bias"):
            state.replace(model, optimizer=SGD(model.head.parameters(), lr=0.1))
        optimizer = SGD(model.parameters(), lr=0.1)
        state.replace(model, optimizer=optimizer)
        assert state.model is model
        assert state.optimizer is optimizer

    def test_the_mode_of_the_model_goes_over(self) -> None:
        state = started(net())
        state.replace(net().eval())
        assert state.model.norm.training
