from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from support import small_groups

from secateur import criteria
from secateur.errors import CheckpointError, InputError
from secateur.graph.elements import blocks, elements
from secateur.planning import Plan, plan


def test_a_plan_says_what_it_is():
    groups = small_groups()
    made = plan(groups, criteria.random(groups), "50% macs")
    assert f"keeps {100 * made.reached.macs / made.dense.macs:.1f} % of MACs" in str(made)
    assert "in 3 groups (asked '50% macs', global, random(seed=0))" in str(made)
    assert repr(made) == f"Plan({made})"
    assert made.table()[0] == ("conv1", 16, made.counts["conv1"])
    assert sorted([*made.keep["fc1"].tolist(), *made.removed("fc1").tolist()]) == list(range(24))
    assert made.versions["torch"] == str(torch.__version__)


def test_a_plan_can_be_made_from_units_alone():
    groups = small_groups()
    made = Plan.of(groups, {"conv1": torch.tensor([0, 5])}, criterion="by hand")
    assert made.counts == {"conv1": 2, "conv2": 32, "fc1": 24}
    assert made.reached == groups.cost(made.counts)
    with pytest.raises(InputError, match=r"'conv3', which does not exist.*'conv"):
        Plan.of(groups, {"conv3": torch.tensor([0])})
    for bad in ([16], [-1], [3, 2], [1, 1]):
        with pytest.raises(InputError, match="kept units of group 'conv1'"):
            Plan.of(groups, {"conv1": torch.tensor(bad)})
    with pytest.raises(InputError, match=r"torch\.float32"):
        Plan.of(groups, {"conv1": torch.ones(2)})


def test_factors_belong_to_kept_units():
    groups = small_groups()
    made = Plan.of(groups, {"fc1": torch.arange(8)}, factors={"fc1": torch.full((8,), 1.5)})
    assert Plan.from_json(made.to_json()).factors["fc1"].tolist() == [1.5] * 8
    with pytest.raises(InputError, match="'factors' of group 'fc1'"):
        Plan.of(groups, {"fc1": torch.arange(8)}, factors={"fc1": torch.ones(24)})


def test_plans_belong_to_their_groups():
    made = plan(small_groups())
    made.check(small_groups(seed=1))
    with pytest.raises(InputError, match="group 'conv1' has 8 units in the model and 16 in the plan"):
        made.check(small_groups(a=8))
    with pytest.raises(InputError, match="made of slices and the groups of elements"):
        made.check(elements(small_groups().model))


@pytest.mark.parametrize("kind", ["slices", "elements", "blocks"])
def test_plans_are_saved_and_loaded(tmp_path, kind):
    slices = small_groups()
    groups = {"slices": slices, "elements": elements(slices.model), "blocks": blocks(slices.model, 3, 5)}[kind]
    made = replace(plan(groups), factors={groups[0].name: torch.rand(plan(groups).counts[groups[0].name])})
    suffix = ".json" if kind == "slices" else ".safetensors"
    for target in (tmp_path, tmp_path / f"mine{suffix}"):
        path = made.save(target)
        assert path.suffix == suffix
        again = Plan.load(path)
        assert again.to_json() == made.to_json()
        assert str(again) == str(made)
    if kind == "elements":
        assert path.stat().st_size < 8210 / 8 + 4 * made.factors["conv1.weight"].numel() + 3000
    with pytest.raises(InputError, match=f"must end in '{suffix}'"):
        made.save(tmp_path / "plan.txt")


def damaged(change):
    data = plan(small_groups()).to_json()
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged or no plan"),
        ("[1]", "'format'"),
        ('{"format": "else"}', "'format'"),
        (damaged(lambda d: d.update(format_version=9)), "'format_version' must be 1. Got 9"),
        (damaged(lambda d: d.pop("reached")), "'reached' is missing"),
        (damaged(lambda d: d.pop("keep")), "'keep'"),
        (damaged(lambda d: d.update(kind="filters")), "'kind'"),
        (damaged(lambda d: d.update(units={"conv1": "x"})), "'units'"),
        (damaged(lambda d: d["units"].update(conv1=3)), "group 'conv1'"),
        (damaged(lambda d: d["keep"].update(conv1=["a"])), "'keep'"),
        (damaged(lambda d: d["keep"].pop("conv1")), "'conv1'"),
        (damaged(lambda d: d["reached"].update(flops=3)), "does not fit"),
    ],
)
def test_damaged_plans_name_file_and_field(tmp_path, text, message):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(CheckpointError) as error:
        Plan.load(path)
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_damaged_masks_are_told(tmp_path):
    path = plan(elements(small_groups().model)).save(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged or no plan"):
        Plan.load(path)
    path.write_bytes(content.replace(b"keep/conv1.weight", b"keep/conv3.weight"))
    with pytest.raises(CheckpointError, match="do not name the same groups"):
        Plan.load(path)
    with pytest.raises(CheckpointError, match="There is no plan at"):
        Plan.load(tmp_path / "none.json")


def test_a_full_disk_leaves_the_old_plan(tmp_path, monkeypatch):
    groups = small_groups()
    path = plan(groups, None, "50% macs").save(tmp_path / "plan.json")
    before = path.read_text()
    monkeypatch.setattr("secateur.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        plan(groups, None, "60% macs").save(path)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
