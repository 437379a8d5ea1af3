"""Models that look at values: what they chose on the example is held, and what lies around the choices is pruned."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from laws.reference import check_laws, difference, masked_outputs, outputs, random_plan, redraw
from torch import Tensor, nn

import secateur
from secateur.graph.choices import Choices, Held, StrayedError, depends_on_values
from secateur.graph.trace import record
from secateur.surgery.verify import Verifier

aten = torch.ops.aten


class Detector(nn.Module):
    """Boxes above a score are taken, thinned out and looked at once more; the scale is computed once and kept."""

    def __init__(self, threshold: float = -0.3, normed: bool = False) -> None:
        super().__init__()
        self.threshold, self.normed = threshold, normed
        self.scale: float | None = None
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU())
        self.score, self.box = nn.Conv2d(6, 1, 1), nn.Conv2d(6, 4, 1)
        self.hidden, self.last = nn.Linear(6 * 4, 10), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.scale is None:
            self.scale = 2 ** float(torch.tensor(1.0).log2().round())
        features = nn.functional.normalize(self.stem(x)) if self.normed else self.stem(x)
        scores = self.score(features).flatten()
        corners = self.box(features)[0].flatten(1).t().sigmoid() * x.shape[-1]
        boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:] / 8], 1)
        likely = scores > self.threshold
        scores, boxes = scores[likely], boxes[torch.where(likely)[0]]
        kept = torchvision.ops.nms(boxes, scores, 0.5)
        seen = torchvision.ops.roi_align(features, [boxes[kept]], 2, spatial_scale=self.scale)
        return boxes[kept], self.last(self.hidden(seen.flatten(1)).relu())


def picture() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(1, 3, 8, 8)


def detector(threshold: float = -0.3) -> nn.Module:
    torch.manual_seed(0)
    return redraw(Detector(threshold))


def test_what_lies_around_choices_is_pruned() -> None:
    found, small = check_laws(detector(), picture())
    assert {g.name: g.units for g in found} == {"stem.0": 8, "stem.2": 6, "hidden": 10}
    assert small.hidden.in_features == 3 * 4
    assert not found.unknown


def test_statistics_before_choices_are_proven_over_kept_entries() -> None:
    torch.manual_seed(0)
    found = secateur.groups(redraw(Detector(normed=True)), picture())
    assert found["stem.2"].proof == "kept statistics"
    small = secateur.slim(found, random_plan(found))
    assert secateur.record(small).proof.holds
    assert len(found) == 3


def test_a_run_between_finding_and_cutting_changes_nothing() -> None:
    model = detector()
    found = secateur.groups(model, picture())
    model(picture())
    assert model.scale is not None
    small = secateur.slim(found, random_plan(found))
    assert secateur.record(small).proof.holds
    assert len(found) == 3


def test_a_wrong_cut_before_a_choice_is_seen_though_nothing_was_chosen() -> None:
    model = detector(threshold=1e9)
    found = secateur.groups(model, picture())
    assert {g.name for g in found} == {"stem.0"}
    assert any("empty tensor" in f.reason for f in found.frozen)
    plan = random_plan(found)
    small = secateur.slim(found, plan)
    assert secateur.record(small).proof.holds
    wrong = copy.deepcopy(small)
    wrong.stem[3] = nn.Sigmoid()
    assert not Verifier(found).prove(wrong, plan.keep).holds


def test_a_smaller_model_chooses_for_itself() -> None:
    model = detector()
    found = secateur.groups(model, picture())
    plan = random_plan(found, share=0.7)
    small = secateur.slim(found, plan)
    own = outputs(small, found.inputs)
    assert difference(own, masked_outputs(found, plan.keep)) < 1e-9
    assert len(own[0]) != len(outputs(model, found.inputs)[0])


def test_choices_are_given_in_order_and_no_others() -> None:
    choices = Choices()
    x, mask = torch.arange(4.0), torch.tensor([True, False, True, False])
    with Held(choices, writing=True):
        first = (x[mask], torch.nonzero(x > 1), x.sum().item(), torch.masked_select(x, mask))
    held = Held(choices)
    with held:
        again = (
            (10 * x)[~mask], torch.nonzero(x > 2), (x + 1).sum().item(), torch.masked_select(-x, ~mask),
        )  # fmt: skip
        with pytest.raises(StrayedError):
            torch.nonzero(x)
    assert again[0].tolist() == (10 * first[0]).tolist()
    assert torch.equal(again[1], first[1])
    assert again[2] == first[2]
    assert again[3].tolist() == (-first[3]).tolist()
    assert next(t.tolist() for t in held.seen) == (10 * x).tolist()


def test_masks_choose_and_positions_do_not() -> None:
    x = torch.ones(3)
    assert depends_on_values(aten.index.Tensor, (x, [x > 0]))
    assert not depends_on_values(aten.index.Tensor, (x, [torch.tensor([0, 1])]))
    assert depends_on_values(aten.nonzero.default, (x,))
    assert not depends_on_values(aten.add.Tensor, (x, x))


def test_what_a_run_writes_is_listed_and_taken_back() -> None:
    model = detector()
    found = record(model, ((picture(),), {}))
    assert [(one.module, one.attribute, one.before) for one in found.written] == [("", "scale", None)]
    assert model.scale is None


def test_ranks_stay_as_they_were_unless_there_are_fewer() -> None:
    choices = Choices()
    x = torch.tensor([[1.0, 3.0, 2.0], [6.0, 5.0, 4.0]])
    with Held(choices, writing=True):
        for y in (x, x):
            torch.topk(y, 2, dim=1)
        torch.sort(x, descending=True)
        torch.argmax(x)
    with Held(choices):
        values, places = torch.topk(-x, 2, dim=1)
        assert places.tolist() == [[1, 2], [0, 1]]
        assert values.tolist() == [[-3, -2], [-6, -5]]
        assert torch.topk(-x[:1], 2, dim=1).indices.tolist() == [[0, 2]]
        assert torch.sort(-x, descending=True).values.tolist() == [[-3, -2, -1], [-6, -5, -4]]
        largest = torch.argmax(-x)
    assert int(largest) == 3
