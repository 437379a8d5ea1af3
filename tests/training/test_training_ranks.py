"""Two processes train one model: as one with the doubled batch would, and alike to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tinynet import batches, same_tensors
from torch import nn
from two_ranks import PLAIN, Data, Sharp, dense, numbers

from secateur.data import load
from secateur.errors import InputError, TrainingError
from secateur.ranks import from_first_rank, mean_over_ranks, same_on_all_ranks, world
from secateur.training import fit
from secateur.training.sharding import check_shardable

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict, dict]]:
    """Scenario -> what rank 0 and rank 1 ended with."""
    folder = tmp_path_factory.mktemp("ranks")
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(HERE / "two_ranks.py"), str(folder)],
        env=environment,
        check=False,
        timeout=600,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    names = {file.stem[:-2] for file in folder.glob("*-0.pt")}
    return {
        name: tuple(torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in (0, 1)) for name in names
    }


def doubled(data: list[tuple[torch.Tensor, torch.Tensor]]) -> list[tuple[torch.Tensor, ...]]:
    """Batches 0 and 1, 2 and 3, ... as one."""
    return [tuple(torch.cat(parts) for parts in zip(*pair, strict=True)) for pair in zip(data[::2], data[1::2])]  # noqa: B905


def test_ranks_end_alike(ends) -> None:
    for name in ("averaged", "accumulated", "cut", "decaying", "unused", "digits", "resumed", "sharded"):
        first, second = ends[name]
        assert same_tensors(first["model"], second["model"]), name
        assert first.get("rows") == second.get("rows"), name


def test_ranks_decay_and_release_the_same_units(ends) -> None:
    first, second = ends["decaying"]
    assert first["events"] == second["events"]
    assert {event.what for event in first["events"]} == {"leaving", "released", "gone"}
    assert first["model"]["conv.weight"].shape[0] < 16


def test_it_is_one_training_with_the_doubled_batch(ends) -> None:
    model = dense()
    history = fit(model, Data(doubled(batches(6))), **PLAIN, clip=0.5)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(ends["averaged"][0]["model"][name], value, rtol=1e-5, atol=1e-6)
    for found, expected in zip(ends["averaged"][0]["rows"], numbers(history), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


def test_accumulation_and_closure_average_over_ranks_too(ends) -> None:
    model, method = dense(), Sharp()
    fit(model, doubled(doubled(batches(8, 4))), **PLAIN, methods=[method])
    for name, value in model.state_dict().items():
        torch.testing.assert_close(ends["accumulated"][0]["model"][name], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ends["accumulated"][0]["value"], method.value, rtol=1e-5, atol=1e-6)
    assert torch.equal(ends["accumulated"][0]["value"], ends["accumulated"][1]["value"])


def test_plans_averages_and_parameters_of_methods_are_alike(ends) -> None:
    first, second = ends["cut"]
    assert same_tensors(first["average"], second["average"])
    assert torch.equal(first["gate"], second["gate"])
    (kept,), (others,) = first["kept"], second["kept"]
    assert same_tensors(kept, others)
    assert first["model"]["conv.weight"].shape[0] < 4
    assert first["average"]["conv.weight"].shape == first["model"]["conv.weight"].shape


def test_a_loader_shares_itself_out(ends) -> None:
    data, model = load("digits", batch_size=128), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    history = fit(model, data, **PLAIN, steps_per_epoch=10)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(ends["digits"][0]["model"][name], value, rtol=1e-4, atol=1e-5)
    for found, expected in zip(ends["digits"][0]["rows"], numbers(history), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


def test_a_dataloader_is_shared_out(ends) -> None:
    first, second = (ends["loaded"][rank]["seen"] for rank in (0, 1))
    assert len(first) == len(second) == 16
    assert sorted(first + second) == list(range(32))


def test_a_run_on_two_ranks_resumes_to_the_same_bits(ends) -> None:
    for end in ends["resumed"]:
        assert same_tensors(end["model"], end["whole"])


def test_folders_that_ranks_do_not_share_are_refused_by_all(ends) -> None:
    for rank in (0, 1):
        assert ends["apart"][rank]["told"][0][0] == "CheckpointError"
        assert (
            "must be the same for all ranks. training.safetensors is there for 50%" in ends["apart"][rank]["told"][0][1]
        )


def test_what_the_first_rank_does_alone_is_told_to_all(ends) -> None:
    (_, *first), (_, *second) = (ends["apart"][rank]["told"] for rank in (0, 1))
    assert first[0] == second[0] == 1.0, "0 of rank 0 alone, and 1 rank"
    assert first[1] == second[1] == ("DataError", "The training data must hold at least one batch. Got an empty loader "
                                     "instead.")  # fmt: skip
    assert first[2] == "its own"
    assert second[2] == ("SecateurError", "Rank 0 stopped. Unsaid: a secret")


def test_sharded_weights_train_and_resume_as_whole_ones_do(ends) -> None:
    first, second = ends["sharded"]
    assert (first["held"], second["held"]) == (8, 8)  # of 16 rows
    for name, value in ends["averaged"][0]["model"].items():
        torch.testing.assert_close(first["model"][name], value, rtol=1e-5, atol=1e-6)
    for found, expected in zip(first["rows"], ends["averaged"][0]["rows"], strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


def test_what_needs_whole_tensors_refuses_shards_by_name(ends) -> None:
    method, setting = ends["sharded"][0]["refused"]
    assert "Sharded weights (FSDP)" in method
    assert "needed by the method Sharp." in method
    assert "needed by 'ema'." in setting


def test_version_1_of_sharding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FSDP_VERSION", raising=False)
    with pytest.raises(TrainingError, match=r"need FSDP2. The launcher asks for version 1; give it --fsdp_version 2"):
        check_shardable([], {})


class TestAlone:
    def test_everything_is_the_identity(self) -> None:
        tensors = [torch.ones(2), torch.zeros(3)]
        assert world() == (0, 1)
        assert [id(t) for t in mean_over_ranks(tensors)] == [id(t) for t in tensors]
        assert same_on_all_ranks(tensors) is tensors
        from_first_rank(tensors)
        assert torch.equal(tensors[0], torch.ones(2))

    def test_a_launcher_that_talks_nonsense(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"RANK": "0", "WORLD_SIZE": "two", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match=r"WORLD_SIZE must be integers.*Got '0' and 'two'"):
            world()
