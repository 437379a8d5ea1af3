from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.data import load
from secateur.errors import CheckpointError
from secateur.zoo import load_weights, model

Wrap = Callable[[dict[str, Tensor]], Any]


def network(classes: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5 * 36, classes))


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state, "best": 0.9},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"model_state_dict": prefixed(state, "module.")},
        lambda state: {"ema": {"module": state}, "optimizer": {}},
        lambda state: prefixed(state, "module."),
        lambda state: prefixed(state, "module.model._orig_mod."),
        lambda state: {name.replace("3.", "3._orig_mod.", 1): value for name, value in state.items()},
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
        lambda state: {name: value.double() if value.is_floating_point() else value for name, value in state.items()},
    ],
    ids=["plain", "state_dict", "namespace", "parallel", "ema", "module", "chain", "compiled", "old", "double"],
)
def test_weights_are_found_under_wrappers_and_prefixes(wrap: Wrap, tmp_path: Path) -> None:
    trained, fresh = network(seed=1), network(seed=2)
    torch.save(wrap(trained.state_dict()), tmp_path / "weights.pth")
    assert load_weights(fresh, tmp_path / "weights.pth") is fresh
    assert equal(fresh, trained)
    assert all(value.dtype == torch.float32 for value in fresh.parameters())


def test_safetensors_are_read(tmp_path: Path) -> None:
    trained = network(seed=1)
    save_file(prefixed(trained.state_dict(), "model."), tmp_path / "weights.safetensors")
    assert equal(load_weights(network(seed=2), str(tmp_path / "weights.safetensors")), trained)


def test_a_prefix_that_is_the_models_own_stays(tmp_path: Path) -> None:
    class Wrapped(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.model = network(seed=seed)

    torch.save(prefixed(Wrapped(1).state_dict(), "module."), tmp_path / "weights.pt")
    assert equal(load_weights(Wrapped(2), tmp_path / "weights.pt"), Wrapped(1))


def test_tied_weights_may_be_there_once(tmp_path: Path) -> None:
    def tied(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        made = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        made[1].weight = made[0].weight
        return made

    state = tied(1).state_dict()
    del state["1.weight"]
    torch.save(state, tmp_path / "weights.pt")
    assert equal(load_weights(tied(2), tmp_path / "weights.pt"), tied(1))


def refused(path: Path, message: str, classes: int = 4) -> None:
    """Loading raises and leaves the model as it was."""
    fresh = network(classes, seed=2)
    with pytest.raises(CheckpointError, match=message):
        load_weights(fresh, path)
    assert equal(fresh, network(classes, seed=2))


def test_a_path_without_a_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.pth", "none.pth does not exist. Give the path of a .safetensors")
    refused(tmp_path, "is a folder")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", bytes(1000)])
def test_a_file_that_is_no_checkpoint(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(
        tmp_path / name, "is not a checkpoint, or it is damaged" if name.endswith("pth") else "no readable safetensors"
    )


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_truncated_checkpoint(name: str, tmp_path: Path) -> None:
    path, state = tmp_path / name, network().state_dict()
    save_file(state, path) if name.endswith("safetensors") else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "damaged|no readable safetensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_model_is_refused_and_the_reason_given(zipped: bool, tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    refused(
        tmp_path / "model.pth",
        r"unpickling torch.nn.modules.container.Sequential, and unpickling can run any code.*save_file",
    )


def test_a_pickle_that_would_run_code_does_not(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pth")
    refused(tmp_path / "bomb.pth", "unpickling posix.mkdir")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_without_weights(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "state.pth")
    refused(tmp_path / "state.pth", "holds no weights.* Got dict instead. Its keys are epoch, lr")
    torch.save([1, 2], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "Got list instead")


def test_missing_and_unexpected_names_are_counted(tmp_path: Path) -> None:
    state = network().state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        state[f"stem.{name}"] = state.pop(name)
    torch.save(state, tmp_path / "weights.pth")
    refused(
        tmp_path / "weights.pth",
        r"of 9 tensors in the model and 9 in the file, 4 tensors of the model are missing "
        r"\(0.weight, 0.bias, 1.weight, ...\) and 4 are not in the model \(stem.0.weight, ",
    )


def test_another_number_of_classes_is_recognised(tmp_path: Path) -> None:
    torch.save(network(classes=10).state_dict(), tmp_path / "weights.pth")
    refused(
        tmp_path / "weights.pth",
        r"do not fit module '3': its weight has shape \[4, 180\] in the model and \[10, 180\] in the file. 1 more "
        r"differ. The file's model has 10 outputs, this one 4: build it with classes=10",
    )


def test_another_width_names_the_first_module(tmp_path: Path) -> None:
    state = network().state_dict()
    state["0.weight"] = torch.zeros(5, 1, 3, 3)
    torch.save(state, tmp_path / "weights.pth")
    refused(
        tmp_path / "weights.pth",
        r"module '0': its weight has shape \[5, 3, 3, 3\] .* \[5, 1, 3, 3\] in the file. Build",
    )


@pytest.fixture
def weights() -> Path:
    """The folder of akamaster's CIFAR-10 ResNets."""
    if not os.environ.get("SECATEUR_WEIGHTS"):
        pytest.skip("SECATEUR_WEIGHTS names no folder with the published weights")
    return Path(os.environ["SECATEUR_WEIGHTS"])


def right(weights: Path, images: int | None) -> tuple[int, int]:
    """Test images that the published ResNet-20 gets right, and how many it saw."""
    if not os.environ.get("SECATEUR_DATA"):
        pytest.skip("SECATEUR_DATA names no folder with the published data sets")
    data = load("cifar10", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    network = load_weights(model("resnet20"), next(weights.glob("resnet20*.th"))).eval()
    inputs, targets = data.test.images[:images], data.test.targets[:images]
    data.test.images, data.test.targets = inputs, targets
    with torch.inference_mode():
        return sum(int((network(x).argmax(1) == y).sum()) for x, y in data.test), len(targets)


def test_published_weights_load_by_name_into_their_network(weights: Path) -> None:
    for path in weights.glob("*.th"):
        name = path.name.partition("-")[0]
        loaded = load_weights(model(name), path)
        assert loaded.get_parameter("linear.bias").any()
        refusing = model(name, shortcut="B")
        with pytest.raises(CheckpointError, match=r"layer2.0.shortcut.0.weight"):
            load_weights(refusing, path)


def test_published_resnet20_classifies_the_first_thousand_images(weights: Path) -> None:
    count, images = right(weights, 1000)
    assert images == 1000
    assert 910 <= count <= 920  # 915 when measured


@pytest.mark.slow
def test_published_resnet20_has_its_published_accuracy(weights: Path) -> None:
    count, images = right(weights, None)
    assert images == 10_000
    assert count / images == pytest.approx(0.9173, abs=2e-4)
