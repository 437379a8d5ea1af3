"""Clean-up and every written form compute what the gated network computes."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from secateur.errors import CheckpointError, InputError
from secateur.sparse import c_header, compact, edges, live, load_network, python_source, read, save_network, to_json

ENDS = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU, "sigmoid": nn.Sigmoid}


def sparse(widths=(6, 5, 4, 3), share=0.3, seed=0, activation="relu"):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = []
        for given_units, units in itertools.pairwise(widths):
            linear = nn.Linear(given_units, units)
            linear.weight.data *= torch.rand_like(linear.weight) < share
            parts += [linear, ENDS[activation]()]
        return nn.Sequential(nn.Flatten(), *parts[:-1])


def paths(network):
    """Every unit on a path from an input to an output, by walking all paths."""
    widths = [len(column) for column in network.units]
    found = [set() for _ in widths]
    for path in itertools.product(*(range(n) for n in widths)):
        if all(layer.weight[path[i + 1], path[i]] != 0 for i, layer in enumerate(network.layers)):
            for column, unit in zip(found, path, strict=True):
                column.add(unit)
    return found


NETS = {
    "sparse": sparse,
    "sigmoid": lambda: sparse(activation="sigmoid"),
    "silu": lambda: sparse(activation="silu"),
    "dense": lambda: sparse(share=1.0),
    "one edge a layer": lambda: sparse(share=0.05, seed=4),
    "nothing left": lambda: sparse(share=0.0),
    "one layer": lambda: sparse((5, 3)),
}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 0.8), st.lists(st.integers(1, 4), min_size=2, max_size=5))
def test_live_units_are_those_on_paths_and_cleaning_keeps_the_function(seed, share, widths):
    net = sparse(widths, share, seed, "sigmoid")
    network = read(net, torch.zeros(1, widths[0]))
    assert [set(column.nonzero().flatten().tolist()) for column in live(network).units] == paths(network)
    small = compact(network, allow_lost=True)
    x = torch.randn(7, widths[0], generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(small(x), net(x), rtol=1e-5, atol=1e-6)
    assert small.counts["edges"] <= network.counts["edges"]
    assert all(live(small).units[i].all() for i in range(len(widths) - 1))
    assert compact(small, allow_lost=True).counts == small.counts


@pytest.mark.parametrize("name", NETS)
def test_every_form_is_the_network(name, tmp_path):
    net = NETS[name]()
    width = net[1].in_features
    network = compact(read(net, torch.zeros(1, 1, width)), allow_lost=True)
    x = torch.randn(9, width, generator=torch.Generator().manual_seed(1))
    expected = net(x).detach()
    torch.testing.assert_close(network(x), expected)

    save_network(network, tmp_path / "network.safetensors")
    stored = load_network(tmp_path / "network.safetensors")
    for layer, other in zip(network.layers, stored.layers, strict=True):
        assert torch.equal(layer.weight, other.weight)
    assert torch.equal(stored(x), network(x))

    listed = edges(network)
    assert (
        len(listed)
        == network.counts["edges"]
        == sum(len(layer["edges"]) for layer in json.loads(to_json(network))["layers"])
    )
    value = x[:, network.units[0]].numpy().astype(np.float64)
    for number, layer in enumerate(network.layers):
        sums = np.tile(layer.bias.double().numpy(), (len(x), 1))
        for _, source, target, weight in listed[listed["layer"] == number].tolist():
            sums[:, target] += weight * value[:, source]
        value = layer.activate(torch.from_numpy(sums)).numpy()
    torch.testing.assert_close(torch.from_numpy(value).float(), expected, rtol=1e-5, atol=1e-6)

    space = {}
    exec(python_source(network), space)
    plain = torch.tensor([space["evaluate"](row) for row in x.tolist()])
    torch.testing.assert_close(plain, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("name", ["sparse", "silu", "nothing left"])
def test_the_c_header_is_the_network(name, tmp_path):
    net = NETS[name]()
    network = compact(read(net, torch.zeros(1, 6)), allow_lost=True)
    (tmp_path / "net.h").write_text(c_header(network, "net"))
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "net.h"\nint main(void) { float x[6], y[3]; int i;\n'
        'for (i = 0; i < 6; i++) if (scanf("%f", x + i) != 1) return 1;\n'
        'net_evaluate(x, y); for (i = 0; i < 3; i++) printf("%.9g ", y[i]); return 0; }\n'
    )
    program = tmp_path / "main"
    subprocess.run(
        ["cc", "-std=c99", "-Wall", "-Werror", "-o", program, tmp_path / "main.c", "-lm"], check=True, timeout=60
    )
    x = torch.randn(6, generator=torch.Generator().manual_seed(2))
    said = subprocess.run([program], input=" ".join(map(str, x.tolist())), capture_output=True, text=True, check=True)
    torch.testing.assert_close(torch.tensor([float(v) for v in said.stdout.split()]), net(x[None])[0].detach())


def test_folding_is_needed_and_outputs_that_lost_their_inputs_are_told():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    net[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    net[0].bias.data = torch.tensor([0.0, 3.0])
    net[2].weight.data = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    net[2].bias.data = torch.tensor([0.5, -1.0])
    network = read(net, torch.zeros(1, 2))
    with pytest.raises(InputError, match=r"No path leads from an input to output 'sour': it is constant"):
        compact(network, names=["sweet", "sour"])
    with pytest.raises(InputError, match=r"to output 1: it is constant"):
        compact(network)
    small = compact(network, allow_lost=True)
    assert [column.tolist() for column in small.units] == [[0], [0], [0, 1]]
    assert small.layers[1].bias.tolist() == [6.5, 11.0]
    assert live(network).lost() == [1]
    assert network.counts == {"edges": 4, "biases": 3, "parameters": 7, "units": 6}
    assert small.counts["edges"] == 2


def test_what_is_no_chain_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"It computes 'convolution' in module '0'"):
        read(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(4, 2)), torch.zeros(1, 1, 2, 2))

    class Skip(nn.Linear):
        def forward(self, x):
            return super().forward(x) + x

    with pytest.raises(InputError, match=r"It computes 'add'"):
        read(Skip(3, 3), torch.zeros(1, 3))
    with pytest.raises(InputError, match=r"'name' parameter of c_header must be a name in C. Got 'my net'"):
        c_header(read(nn.Linear(2, 2), torch.zeros(1, 2)), "my net")
    (tmp_path / "net").write_bytes(b"no network")
    with pytest.raises(CheckpointError, match=r"does not hold a sparse network"):
        load_network(tmp_path / "net")
