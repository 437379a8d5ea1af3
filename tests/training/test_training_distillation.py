from __future__ import annotations

import pytest
import torch
from tinynet import QUIET, batches, net, same_tensors
from torch import nn

from secateur.errors import InputError
from secateur.training import Moments, State, fit
from secateur.training.distillation import Distillation, distillation


def test_the_term_is_zero_for_equal_logits_and_positive_for_others():
    logits = torch.randn(5, 7)
    assert float(distillation(logits, logits, 4.0)) == pytest.approx(0, abs=1e-6)
    assert float(distillation(logits, logits + 3, 4.0)) == pytest.approx(0, abs=1e-6), "softmax does not see a shift"
    assert float(distillation(logits, -logits, 4.0)) > 0


def test_the_term_is_the_divergence_spelled_out():
    told, telling, temperature = torch.randn(4, 3), torch.randn(4, 3), 2.5
    p, q = (telling / temperature).softmax(1), (told / temperature).softmax(1)
    expected = (p * (p / q).log()).sum(1).mean() * temperature**2
    assert float(distillation(told, telling, temperature)) == pytest.approx(float(expected), rel=1e-5)


def test_at_high_temperatures_the_gradient_matches_logits():
    """Equation 4 of the paper: for logits of mean zero, T^2 dKL/dz tends to (z - v) / N."""
    z = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    v = torch.randn(1, 6, dtype=torch.float64)
    centred = [logits - logits.mean() for logits in (z.detach(), v)]
    distillation(z, v, 1e4).backward()
    assert torch.allclose(z.grad, (centred[0] - centred[1]) / 6, rtol=1e-3, atol=1e-6)


def taught(teacher: nn.Module, weight: float = 1.0, epochs: int = 2) -> tuple[nn.Module, list[float]]:
    student = net(1)
    methods = [Distillation(teacher, weight, temperature=2.0)] if weight else []
    history = fit(student, batches(), epochs=epochs, methods=methods, **QUIET)
    return student, [row.train_loss for row in history.rows]


def test_a_student_comes_closer_to_its_teacher():
    teacher, (inputs, _) = net(5), batches(1, size=64, seed=3)[0]
    with torch.no_grad():
        teacher.head.weight.mul_(20)
    wanted = teacher.eval()(inputs).softmax(1)
    students = [taught(teacher, weight, epochs=15)[0].eval() for weight in (0.0, 5.0)]
    alone, with_teacher = ((student(inputs).softmax(1) - wanted).abs().mean() for student in students)
    assert with_teacher < 0.8 * alone


def test_the_teacher_and_the_random_draws_are_left_alone():
    """A weight so small that it adds nothing gives the training without a teacher, dropout and all."""
    teacher = net(5).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student, losses = taught(teacher, weight=1e-30)
    alone, plain = taught(teacher, weight=0.0)
    assert same_tensors(student.state_dict(), alone.state_dict())
    assert losses == plain
    assert same_tensors(teacher.state_dict(), before)
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_a_loop_of_ones_own_gets_the_term_without_outputs_at_hand():
    student, (inputs, targets) = net(1), batches(1)[0]
    state = State(student, epochs=1, steps_per_epoch=1, moments=Moments([method := Distillation(net(2))]))
    state.moments.setup(state)
    state.batch = (inputs, targets)
    assert method.penalty(state).requires_grad


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(InputError, match=r"Got \[8, 4\] for outputs of \[8, 3\] instead"):
        fit(net(), batches(), epochs=1, methods=[Distillation(net(classes=4))], **QUIET)


def test_a_killed_training_with_a_teacher_goes_on_bit_equal(tmp_path):
    def trained(epochs_seen: int | None) -> nn.Module:
        def stop(row):
            if row.epoch == epochs_seen:
                raise KeyboardInterrupt

        student = net(1)
        fit(student, batches(), epochs=3, methods=[Distillation(net(2))], checkpoint=tmp_path, on_epoch=stop, **QUIET)
        return student

    with pytest.raises(KeyboardInterrupt):
        trained(2)
    resumed = trained(None)
    whole = net(1)
    fit(whole, batches(), epochs=3, methods=[Distillation(net(2))], **QUIET)
    assert same_tensors(resumed.state_dict(), whole.state_dict())
