from __future__ import annotations

import pytest
import torch
from support import small_groups

from secateur.errors import InputError
from secateur.removal import Immediate, Removal


def test_units_leave_at_the_next_step_and_once():
    groups = small_groups()
    removal: Removal = Immediate()
    assert removal.after_step(groups) == {}
    removal.start(groups, {"conv1": torch.tensor([3]), "fc1": torch.tensor([], dtype=torch.long)})
    removal.start(groups, {"conv1": torch.tensor([7, 0])})
    removal.before_step(groups)
    departures = removal.after_step(groups)
    assert departures["conv1"].gone.nonzero().flatten().tolist() == [0, 3, 7]
    assert not departures["conv1"].released.any()
    assert not departures["fc1"].gone.any()
    assert removal.after_step(groups) == {}


def test_a_resumed_removal_goes_on():
    groups = small_groups()
    removal, resumed = Immediate(), Immediate()
    removal.start(groups, {"conv2": torch.tensor([31])})
    resumed.load_state_dict(groups, removal.state_dict())
    assert resumed.after_step(groups)["conv2"].gone.nonzero().flatten().tolist() == [31]
    assert removal.after_step(groups).keys() == {"conv2"}


def test_units_that_do_not_exist_are_named():
    groups = small_groups()
    for bad in (-1, 16):
        with pytest.raises(InputError, match=f"units of group 'conv1' are numbered 0 to 15. Got indices {bad}"):
            Immediate().start(groups, {"conv1": torch.tensor([bad])})
    with pytest.raises(InputError, match="no group named 'conv9'"):
        Immediate().start(groups, {"conv9": torch.tensor([0])})
