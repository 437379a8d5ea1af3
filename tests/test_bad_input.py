"""Bad input: each gets an error that names what was found and says what to do, and leaves everything as it was."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from laws.networks import Flatten, Residual, network
from laws.reference import random_plan, redraw
from torch import Tensor, nn

import secateur
from secateur.errors import BudgetError, CheckpointError, InputError, SecateurError, TraceError
from secateur.surgery import checkpoint
from secateur.zoo import load_weights


def net() -> nn.Module:
    return Flatten().eval()


EXAMPLE = torch.zeros(1, 3, 8, 8)


# Models and examples


def test_a_model_that_raises_is_named_with_its_module() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("the moon is full")

    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), Broken()))
    with pytest.raises(
        TraceError, match=r"raised ValueError in module '1\.1' \(Broken\).*the moon is full.*must run"
    ) as e:
        secateur.groups(model, torch.zeros(1, 3))
    assert isinstance(e.value.__cause__, ValueError)


def test_an_example_of_a_wrong_shape_names_the_layer() -> None:
    with pytest.raises(TraceError, match=r"in module 'conv1' \(Conv2d\).*Call the model on the example yourself"):
        secateur.groups(net(), torch.zeros(1, 5, 8, 8))


def test_a_model_in_training_mode_stays_there_when_it_raises() -> None:
    model = net().train()
    model.bn1.eval()
    with pytest.raises(TraceError):
        secateur.groups(model, torch.zeros(1, 5, 8, 8))
    assert model.training
    assert model.conv1.training
    assert not model.bn1.training


@pytest.mark.parametrize("elsewhere", ["example", "model"])
def test_an_example_on_another_device(elsewhere: str) -> None:
    model, example = (net(), EXAMPLE.to("meta")) if elsewhere == "example" else (net().to("meta"), EXAMPLE)
    own, other = ("cpu", "meta") if elsewhere == "example" else ("meta", "cpu")
    with pytest.raises(InputError, match=rf"The example is on {other} and the model on {own}.*\.to\('{own}'\)"):
        secateur.groups(model, example)


@pytest.mark.parametrize("call", [secateur.groups, secateur.prune])
def test_a_missing_example_is_asked_for(call: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"'example' parameter.*Got NoneType.*to prove every cut by a forward pass"):
        call(net())


@pytest.mark.parametrize("example", [3, "cats", EXAMPLE.numpy()])
def test_an_example_of_a_wrong_type(example: object) -> None:
    with pytest.raises(InputError, match=f"'example' parameter must be a tensor.*Got {type(example).__name__} instead"):
        secateur.groups(net(), example)


def test_a_model_that_is_no_module() -> None:
    with pytest.raises(InputError, match=r"'model' parameter must be a torch.nn.Module. Got function instead"):
        secateur.groups(lambda x: x, EXAMPLE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    model = net()
    groups = secateur.groups(model, EXAMPLE)
    with torch.no_grad():
        model.fc1.weight[2, 3:5] = value
    for act in (
        lambda: secateur.prune(model, EXAMPLE, budget="60% macs"),
        lambda: secateur.slim(groups, random_plan(groups)),
    ):
        with pytest.raises(SecateurError, match=r"fc1\.weight.*NaN or infinite"):
            act()


@pytest.mark.parametrize("model", [nn.Linear(3, 4), nn.Sequential(nn.ReLU(), nn.Flatten())])
def test_a_model_with_nothing_to_prune(model: nn.Module) -> None:
    groups = secateur.groups(model, torch.zeros(2, 3))
    assert len(groups) == 0
    with pytest.raises(InputError, match=r"no group that can be pruned. Why"):
        secateur.plan(groups)
    with pytest.raises(InputError, match=r"no group that can be pruned"):
        secateur.prune(model, torch.zeros(2, 3))


def test_a_model_that_cannot_be_copied() -> None:
    class Stubborn(Flatten):
        def __deepcopy__(self, memo: object) -> None:
            raise RuntimeError("one of a kind")

    with pytest.raises(InputError, match=r"\(Stubborn\) cannot be copied: RuntimeError: one of a kind.*deepcopy"):
        secateur.prune(Stubborn().eval(), EXAMPLE)


# Budgets and patterns

BUDGETS = {
    "50% bananas": "must read like '50% macs'.*Got '50% bananas'",
    "half": "must read like '50% macs'",
    "": "must read like '50% macs'",
    "0% macs": "above 0 % and at most 100 %. Got 0 %",
    "-20% macs": "above 0 %.*Got -20 %.*what remains, not what is removed",
    "150% macs": "at most 100 %. Got 150 %",
    "0x macs": "a factor of at least 1",
    "0.5x macs": "Did you mean '2x macs'",
    "0 params": "a number of at least 1",
    "-3M params": "a number of at least 1",
    "900G macs": "above the .* macs of the dense model",
    "50% flops": "two FLOPs: say '50% macs'",
    "0.5": "no unit: did you mean '50% macs'",
}


@pytest.mark.parametrize("budget", BUDGETS)
def test_budgets_that_mean_nothing(budget: str) -> None:
    with pytest.raises(BudgetError, match=BUDGETS[budget]):
        secateur.prune(net(), EXAMPLE, budget=budget)


def test_a_budget_that_cannot_be_reached_says_how_far_and_what_holds_it() -> None:
    with pytest.raises(BudgetError) as e:
        secateur.plan(secateur.groups(net(), EXAMPLE), budget="0.01% macs")
    said = str(e.value)
    assert "0.01% macs" in said
    assert "conv" in said or "fc" in said
    assert any(c.isdigit() for c in said)
    with pytest.raises(BudgetError, match=r"100.0 % of the macs remain.*'keep' keeps 3 of 3 groups whole"):
        secateur.plan(secateur.groups(net(), EXAMPLE), budget="20% macs", keep=["conv1", "conv2", "fc1"])


def test_a_pattern_that_matches_nothing_offers_names() -> None:
    groups = secateur.groups(net(), EXAMPLE)
    for pattern in ("conv11", "layer4.*", "re:^nothing$"):
        with pytest.raises(InputError, match=r"'keep' parameter of plan.*matches nothing in the model"):
            secateur.plan(groups, budget="60% macs", keep=[pattern])
    with pytest.raises(InputError, match=r"Did you mean 'conv1'"):
        secateur.plan(groups, budget="60% macs", keep="conv11")
    with pytest.raises(KeyError, match=r"no group named 'conv9'"):
        groups["conv9"]


def test_a_plan_of_another_model() -> None:
    groups = secateur.groups(net(), EXAMPLE)
    other = secateur.groups(*network("Residual"))
    with pytest.raises(InputError, match=r"The plan was made for another model: group '"):
        secateur.slim(other, random_plan(groups))
    with pytest.raises(InputError, match=r"made of slices and the groups of elements"):
        secateur.slim(secateur.elements(net()), random_plan(groups))


# Checkpoints


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    groups = secateur.groups(redraw(net()), torch.randn(1, 3, 8, 8))
    return secateur.save(secateur.slim(groups, random_plan(groups)), tmp_path / "out")


def refused(folder: Path, match: str, build: Callable[[], nn.Module] = Flatten) -> None:
    with pytest.raises(CheckpointError, match=match):
        secateur.load(build, folder)


def test_a_checkpoint_of_another_model(saved: Path) -> None:
    refused(saved, "made from another model.*has 'conv1.weight' and it has not", lambda: nn.Linear(3, 4))

    def wider() -> nn.Module:
        model = Flatten()
        model.fc1 = nn.Linear(160, 15)
        model.fc2 = nn.Linear(15, 5)
        return model

    refused(saved, r"'fc1.weight' has shape \[15, 160\] in it and \[14, 160\] in the checkpoint's original", wider)
    with pytest.raises(InputError, match=r"'build' parameter of load must return a torch.nn.Module. Got int instead"):
        secateur.load(lambda: 3, saved)


def test_a_missing_checkpoint(tmp_path: Path, saved: Path) -> None:
    refused(tmp_path / "nowhere", "There is no checkpoint in '.*nowhere'")
    (saved / "plan.json").unlink()
    refused(saved, "'plan.json' is missing")


def test_a_changed_plan_is_refused(saved: Path) -> None:
    plan = json.loads((saved / "plan.json").read_text())
    name = next(iter(plan["kept"]))
    axis = next(iter(plan["kept"][name]))
    plan["kept"][name][axis][0] += 1
    (saved / "plan.json").write_text(json.dumps(plan))
    refused(saved, "plan.json' was changed after it was written")


def test_changed_tensors_are_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    refused(saved, "checksum differs")


@pytest.mark.parametrize("left", [0, 5, 200, -1])
def test_truncated_files_are_refused(saved: Path, left: int) -> None:
    for name in ("model.safetensors", "plan.json"):
        data = (saved / name).read_bytes()
        (saved / name).write_bytes(data[:left])
        refused(saved, "damaged|cut short")
        (saved / name).write_bytes(data)
    secateur.load(Flatten, saved)


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"format": "other"}', "\x00\x01", "3"])
def test_foreign_json_is_refused(saved: Path, text: str) -> None:
    (saved / "plan.json").write_text(text)
    refused(saved, "plan.json' is not")


def test_a_newer_format_is_refused(saved: Path) -> None:
    plan = json.loads((saved / "plan.json").read_text())
    (saved / "plan.json").write_text(json.dumps(plan | {"version": 99}))
    refused(saved, "format version 99; this one reads 1. Update Secateur")


@pytest.mark.parametrize("broken", ["kept", "shapes", "attributes", "groups", "budget", "tensors"])
def test_a_plan_with_a_valid_checksum_and_missing_fields_is_refused(saved: Path, broken: str) -> None:
    plan = json.loads((saved / "plan.json").read_text())
    del plan["sha256"], plan[broken]
    plan["sha256"] = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    (saved / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(CheckpointError):
        secateur.load(Flatten, saved)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("I was here first")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(CheckpointError, match=r"cannot be written to '.*file.*'.*unharmed"):
            secateur.save(net(), folder)
    assert (tmp_path / "file").read_text() == "I was here first"


def pair(tmp_path: Path) -> tuple[nn.Module, nn.Module, Path]:
    """An old and a new slim model of different widths, and a folder that holds the old one."""
    groups = secateur.groups(redraw(net()), torch.randn(1, 3, 8, 8))
    old = secateur.slim(groups, random_plan(groups, seed=1))
    new = secateur.slim(groups, random_plan(groups, seed=2, share=0.3))
    return old, new, secateur.save(old, tmp_path / "out")


def holds(folder: Path, *choices: nn.Module) -> nn.Module:
    """Which of some models a folder holds, whole."""
    back = secateur.load(Flatten, folder)
    for module in choices:
        if [p.shape for p in module.parameters()] == [p.shape for p in back.parameters()]:
            assert all(
                torch.equal(a, b) for a, b in zip(module.state_dict().values(), back.state_dict().values(), strict=True)
            )
            return module
    raise AssertionError("a mix of two checkpoints was loaded")


@pytest.mark.parametrize("moment", ["tensors", "plan", "flush"])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    old, new, folder = pair(tmp_path)
    full = OSError(errno.ENOSPC, "No space left on device")

    def fail(*_: object, **__: object) -> None:
        raise full

    def half(tensors: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise full

    if moment == "tensors":
        monkeypatch.setattr(checkpoint, "save_file", half)
    elif moment == "plan":
        monkeypatch.setattr(Path, "write_text", fail)
    else:
        monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match=r"No space left on device.*unharmed"):
        secateur.save(new, folder)
    monkeypatch.undo()
    assert holds(folder, old, new) is old
    assert secateur.save(new, folder) == folder
    assert holds(folder, old, new) is new


@pytest.mark.parametrize("moment", range(1, 5))
def test_a_kill_in_the_middle_of_saving_leaves_the_old_or_the_new(tmp_path: Path, moment: int) -> None:
    old, new, folder = pair(tmp_path)
    waiting = secateur.save(new, tmp_path / "new")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(waiting), str(folder), str(moment)],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    assert holds(folder, old, new) is (old if moment <= 2 else new)
    secateur.save(new, folder)
    assert holds(folder, old, new) is new
    secateur.save(old, folder)
    assert holds(folder, old, new) is old


@pytest.mark.parametrize("fault", ["full disk", "kill"])
def test_a_failing_save_after_a_killed_one_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The killed save left its plan waiting beside the tensors in place: the next save must not lose it."""
    old, new, folder = pair(tmp_path)
    waiting = secateur.save(new, tmp_path / "new")
    (folder / "model.safetensors").write_bytes((waiting / "model.safetensors").read_bytes())
    (folder / "plan.json.new").write_bytes((waiting / "plan.json").read_bytes())
    assert holds(folder, old, new) is new

    def fail(path: Path, text: str, **_: object) -> None:
        path.write_bytes(text.encode()[:20])
        raise OSError(errno.ENOSPC, "No space left on device") if fault == "full disk" else KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises((CheckpointError, KeyboardInterrupt)):
        secateur.save(old, folder)
    monkeypatch.undo()
    assert holds(folder, old, new) is new


KILLED = """
import os, sys
from laws.networks import Flatten
import secateur
from secateur.surgery import checkpoint
module = secateur.load(Flatten, sys.argv[1])
moment, replace, write = int(sys.argv[3]), os.replace, checkpoint._write
seen = []
def dying_write(path, act):
    write(path, act)
    seen.append(path)
    if moment == len(seen):
        os._exit(9)
def dying_replace(a, b):
    replace(a, b)
    seen.append(b)
    if moment == len(seen):
        os._exit(9)
checkpoint._write, os.replace = dying_write, dying_replace
secateur.save(module, sys.argv[2])
"""


def test_a_disk_that_really_is_full(tmp_path: Path) -> None:
    """The system refuses files beyond a size in a process of its own."""
    old, new, folder = pair(tmp_path)
    waiting = secateur.save(new, tmp_path / "new")
    limit = (folder / "model.safetensors").stat().st_size // 4
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(waiting), str(folder)],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "CheckpointError: The checkpoint cannot be written" in done.stderr
    assert holds(folder, old, new) is old
    assert sorted(p.name for p in folder.iterdir()) == ["model.safetensors", "plan.json"]


FULL = """
import signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from laws.networks import Flatten
import secateur
secateur.save(secateur.load(Flatten, sys.argv[1]), sys.argv[2])
"""


def test_no_pickle_is_ever_run(tmp_path: Path, saved: Path) -> None:
    mark = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(mark),)

    legacy = tmp_path / "weights.pt"
    torch.save({"conv1.weight": Bomb()}, legacy)
    with pytest.raises(SecateurError, match=r"weights\.pt"):
        load_weights(Flatten(), legacy)
    legacy.write_bytes(pickle.dumps({"conv1.weight": Bomb()}, protocol=2))
    with pytest.raises(SecateurError, match=r"weights\.pt"):
        load_weights(Flatten(), legacy)
    for name in ("model.safetensors", "plan.json"):
        before = (saved / name).read_bytes()
        (saved / name).write_bytes(pickle.dumps(Bomb(), protocol=2))
        refused(saved, "damaged|not a Secateur checkpoint|not readable")
        (saved / name).write_bytes(before)
    assert not mark.exists()


def test_errors_leave_the_model_as_it_was() -> None:
    model, example = Residual().eval(), torch.randn(2, 3, 8, 8)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    attributes = {path: dict(vars(m)) for path, m in model.named_modules()}
    for act in (
        lambda: secateur.prune(model, example, budget="0.001% macs"),
        lambda: secateur.prune(model, example, keep="nothing"),
        lambda: secateur.groups(model, torch.zeros(1, 7, 8, 8)),
    ):
        with pytest.raises(SecateurError):
            act()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for path, module in model.named_modules():
        assert vars(module).keys() == attributes[path].keys()
        assert all(vars(module)[k] is v for k, v in attributes[path].items() if not isinstance(v, int))
