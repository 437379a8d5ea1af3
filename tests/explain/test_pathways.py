"""The pathway page: what it holds, what it says of networks it cannot draw whole, and its size."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from explained import of_weights, random_network

from secateur.errors import InputError
from secateur.explain import contributions, render, study
from secateur.explain.drawing import drawing, strengths
from secateur.explain.ordering import as_they_are, untangled
from secateur.sparse import edges


def drawn(samples, width, seed=0):
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed))


def a_study(network=None, samples=60, **options):
    network = network or random_network(share=0.8)
    x = drawn(samples, network.width)
    return study(network, x, network(x).argmax(1), **options)


def parsed(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_every_live_edge_is_drawn_once_in_valid_xml_and_colours_are_symmetric_about_zero():
    found = a_study()
    tree = ElementTree.fromstring(str(drawing(found, untangled(found.drawn))))
    paths = tree.find(".//g[@class='edges']").findall("path")
    assert len({path.get("d") for path in paths}) == len(paths) == found.network.counts["edges"]
    value, colour = strengths(found)
    assert np.abs(value).max() == 1
    assert np.sign(colour).tolist() == np.sign(edges(found.drawn)["weight"]).tolist()
    mirrored = a_study(of_weights(*[(-layer.weight).tolist() for layer in found.drawn.layers[:1]]))
    straight = a_study(of_weights(found.drawn.layers[0].weight.tolist()))
    assert strengths(mirrored)[1].tolist() == (-strengths(straight)[1]).tolist()


def test_the_drawing_of_a_small_network_is_this():
    network = of_weights([[1, -1, 0, 0], [0, 0, 2, 2]], [[1, 0], [0, -1]])
    found = study(network, drawn(20, 4), names=("x1", "x2", "x3", "x4"), classes=("y1", "y2"))
    tree = ElementTree.fromstring(str(drawing(found, as_they_are(found.drawn))))
    assert [text.text for text in tree.iter("text")] == [
        "inputs", "fc1", "fc2", "x1", "x2", "x3", "x4", "y1", "y2",
    ]  # fmt: skip
    assert [g.get("aria-label") for g in tree.iter("g") if g.get("role") == "button"] == [
        "x1: feeds 1", "x2: feeds 1", "x3: feeds 1", "x4: feeds 1",
        "unit 0: reads 2, feeds 1", "unit 1: reads 2, feeds 1", "y1: reads 1", "y2: reads 1",
    ]  # fmt: skip
    assert [len(part.inputs) for part in found.components] == [2, 2]


def test_399_edges_of_an_image_are_under_200_kb_and_refer_to_nothing_outside():
    network = random_network((784, 60, 25, 10), share=0.0)
    for layer, count in zip(network.layers, (250, 130, 80), strict=True):
        chosen = torch.randperm(layer.weight.numel(), generator=torch.Generator().manual_seed(1))[:count]
        layer.weight.view(-1)[chosen] = torch.randn(count)
    x = drawn(200, 784).clamp(min=0)
    found = study(network, x, network(x).argmax(1), shape=(1, 28, 28), allow_lost=True)
    assert 380 < found.network.counts["edges"] < 440
    page = render(found)
    assert len(page.encode()) < 200_000
    assert not re.search(r"""(src|href)=["'](?!#|data:)|https?://(?!www\.w3\.org/2000/svg)|@import""", page)


def test_names_of_data_cannot_break_the_page():
    names = ["</script><b>", "a & b", "'\"", "d", "e", "f"]
    page = render(a_study(names=names, classes=["<i>", "two", "</svg>"]))
    assert "</script><b>" not in page
    assert "<i>" not in page.replace("<i></i>", "")
    assert parsed(page)["pixels"] == list(range(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["a", "b"]}, "'names' parameter of study must be a different name for each of 6 inputs. Got 2"),
        ({"names": ["a"] * 6}, "Got 6, of which 1 differ"),
        ({"classes": ["a", "b", ""]}, "different name for each of 3 outputs"),
    ],
)
def test_names_must_be_one_each(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        a_study(**options)


def test_targets_must_fit_samples_and_outputs():
    network, x = random_network(share=0.8), drawn(5, 6)
    with pytest.raises(InputError, match="one for each of 5 samples"):
        study(network, x, torch.zeros(4, dtype=torch.long))
    with pytest.raises(InputError, match="labels below 3, the number of outputs, or numbers"):
        study(network, x, torch.arange(5) % 4)


def test_features_without_names_are_counted_and_it_is_said():
    found = a_study()
    assert found.names[0] == "input 0"
    assert "The inputs have no names: they are counted from 0." in render(found)
    assert "have no names" not in render(a_study(names=list("abcdef")))


def test_more_than_a_page_can_draw_is_said_and_the_strongest_drawn():
    network = random_network((40, 30, 20, 5), share=0.7)
    found = a_study(network, edges_drawn=50, units_drawn=12)
    assert 20 < found.drawn.counts["edges"] <= 50
    assert max(map(len, found.drawn.units)) <= 12
    page = render(found)
    total = found.network.counts["edges"]
    assert f"The page draws the strongest {found.drawn.counts['edges']} of {total:,} edges" in page
    assert found.samples == ()
    assert len(found.importances["path product"]) == len(found.network.units[0]) > len(found.drawn.units[0])
    assert len(parsed(page)["importance"]) == len(found.drawn.units[0])


def test_a_class_that_lost_all_its_paths_is_named_and_drawn_on_request_alone():
    network = of_weights([[1.0, 2.0], [0.0, 0.0]], biases=[[0.0, 0.5]])
    x = drawn(30, 2)
    with pytest.raises(InputError, match="No path leads from an input to output 'sick'"):
        study(network, x, classes=("well", "sick"))
    found = study(network, x, torch.zeros(30, dtype=torch.long), classes=("well", "sick"), allow_lost=True)
    assert found.lost == (1,)
    assert "No path leads to <strong>sick</strong>" in render(found)
    with pytest.raises(InputError, match="reads no input"):
        study(of_weights([[0.0, 0.0]]), x, allow_lost=True)


def test_outcomes_that_are_numbers_are_explained_too():
    network = random_network((4, 5, 1), share=1.0)
    x = drawn(50, 4)
    found = study(network, x, network(x))
    assert found.accuracy is None
    assert found.deletions["permutation"].accuracy is None
    assert all(sample.label is None for sample in found.samples)
    assert "of the samples right" not in render(found)


def test_the_page_holds_the_network_and_samples_to_six_digits():
    found = a_study()
    values = parsed(render(found))
    assert len(values["edges"]) == found.network.counts["edges"]
    largest = max(rank for *_, rank in values["edges"])
    assert largest <= values["paths"] == values["stops"][-1][0]
    first = found.samples[0]
    written = values["samples"][0]
    x = [written["x"].get(str(j), written["base"]) for j in range(6)]
    torch.testing.assert_close(torch.tensor(x), first.inputs, atol=1e-5, rtol=1e-5)
    made = contributions(found.network, first.inputs[None])
    assert int(made.outputs.argmax()) == first.label
