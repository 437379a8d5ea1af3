"""Hidden units of recurrent layers are groups over all gates, layers and directions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from laws.reference import check_laws
from torch import Tensor, nn

import secateur


class Reader(nn.Module):
    """Reads a sequence and answers at every place, or at its end from the last state."""

    def __init__(self, kind: str, last: bool = False, **settings: Any) -> None:
        super().__init__()
        self.kind, self.last, self.settings = kind, last, settings
        self.table = nn.Embedding(11, 12)
        self.rnn = getattr(nn, kind)(12, 16, batch_first=True, **settings)
        self.fc = nn.Linear((settings.get("proj_size") or 16) * (1 + settings.get("bidirectional", False)), 5)

    def forward(self, x: Tensor) -> Tensor:
        out, state = self.rnn(self.table(x))
        if not self.last:
            return self.fc(out)
        hidden = state[0] if isinstance(state, tuple) else state
        return self.fc(torch.cat(list(hidden[-2:] if self.settings.get("bidirectional") else hidden[-1:]), dim=-1))


class Cells(nn.Module):
    """A recurrence written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell, self.gru = nn.Embedding(11, 12), nn.LSTMCell(12, 10), nn.GRUCell(10, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = c = g = None
        for token in self.table(x).unbind(1):
            h, c = self.cell(token, None if h is None else (h, c))
            g = self.gru(h, g)
        return self.fc(g)


def words() -> Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 11, (2, 6))


READERS: dict[str, dict[str, Any]] = {
    "LSTM": {},
    "LSTM of two layers, both ways": {"num_layers": 2, "bidirectional": True},
    "LSTM with projection": {"proj_size": 6},
    "LSTM, last state": {"last": True, "bidirectional": True},
    "GRU of two layers": {"num_layers": 2},
    "GRU, last state": {"last": True},
    "RNN": {},
}


@pytest.mark.parametrize("name", READERS)
def test_hidden_units_are_pruned(name: str, tmp_path: Path) -> None:
    kind = name.partition(" ")[0].strip(",")
    torch.manual_seed(0)
    model = Reader(kind, **READERS[name])
    found, small = check_laws(model, words())
    assert {g.units for g in found} == {12, 16, *([6] if "projection" in name else [])}
    assert small.rnn.hidden_size == 8
    assert small.rnn.input_size == 6
    assert not found.unknown
    assert found.solution.recording.medium == "hollow"
    small.train()(words()).square().mean().backward()
    assert all(p.grad is not None for p in small.parameters())
    secateur.save(small.eval(), tmp_path)
    back = secateur.load(lambda: Reader(kind, **READERS[name]), tmp_path)
    other = torch.randint(0, 11, (3, 4))
    assert torch.equal(back(other), small(other))


def test_cells_are_pruned() -> None:
    torch.manual_seed(0)
    found, small = check_laws(Cells(), words())
    assert {g.units for g in found} == {12, 10, 8}
    assert (small.cell.hidden_size, small.gru.input_size, small.gru.hidden_size) == (5, 5, 4)
