"""The pathway page in a real browser: hover, click, slider, samples and keyboard do what they say."""

from __future__ import annotations

import json

import pytest
import torch
from browsing import browser, show, worst_contrast
from explained import random_network

from secateur.explain import contributions, study, subgraph, write

pytestmark = pytest.mark.browser
__all__ = ["browser"]
CSS = "css selector"


@pytest.fixture(scope="module")
def studies():
    made = {}
    for name, widths, share, options in (
        ("image", (64, 9, 6, 4), 0.4, {"shape": (1, 8, 8)}),
        ("table", (9, 6, 4, 3), 0.6, {"names": [f"feature number {i}" for i in range(9)]}),
    ):
        network = random_network(widths, share=share, seed=5)
        x = torch.randn(80, widths[0], generator=torch.Generator().manual_seed(0))
        made[name] = study(network, x, network(x).argmax(1), **options)
    return made


@pytest.fixture(scope="module")
def pages(tmp_path_factory, studies):
    folder = tmp_path_factory.mktemp("pathways")
    return {name: write(one, folder / f"{name}.html").as_uri() for name, one in studies.items()}


def lit(browser, kind="lit"):
    return len(browser.find_elements(CSS, f".edges .{kind}"))


def hover(browser, selector):
    from selenium.webdriver import ActionChains

    element = browser.find_element(CSS, selector)
    ActionChains(browser).scroll_to_element(element).move_to_element(element).perform()


def press(browser, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


@pytest.mark.parametrize("name", ["image", "table"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_never_scrolls_sideways_and_says_nothing_wrong(browser, pages, name, width):
    browser.get_log("browser")
    show(browser, pages[name], width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_it_asks_for_nothing_outside(browser, pages):
    browser.get("about:blank")
    browser.get_log("performance")
    show(browser, pages["image"])
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("data:", "about:"))] == [pages["image"]]


def test_hovering_a_unit_lights_all_paths_through_it_and_no_other(browser, pages, studies):
    show(browser, pages["table"])
    network = studies["table"].drawn
    unit = int((network.layers[1].weight != 0).sum(1).argmax())
    hover(browser, f"#u2-{unit} circle")
    into = network.layers[1].weight[unit] != 0
    before = int((network.layers[0].weight[into] != 0).sum())
    after = int((network.layers[2].weight[:, unit] != 0).sum())
    assert lit(browser) == before + int(into.sum()) + after
    assert lit(browser, "dim") == network.counts["edges"] - lit(browser)
    paths = int((network.layers[0].weight[into] != 0).sum()) * after
    said = browser.find_element(CSS, "#said").text
    assert f"{paths} path" in said
    sizes = [layer.weight.double().abs() for layer in network.layers]
    into = sizes[1] @ sizes[0] @ studies["table"].scale[0]
    out = sizes[2].sum(0)
    share = 100 * float(into[unit] * out[unit] / (into @ out))
    assert f"with {share:.1f} % of what all paths carry" in said
    hover(browser, "h1")
    assert lit(browser) == 0


@pytest.mark.parametrize("name", ["image", "table"])
def test_clicking_a_class_shows_its_subgraph_and_its_inputs(browser, pages, studies, name):
    show(browser, pages[name])
    browser.find_element(CSS, "[data-class='1']").click()
    own = subgraph(studies[name].drawn, 1)
    assert lit(browser) == own.counts["edges"]
    assert browser.find_element(CSS, "[data-class='1']").get_attribute("aria-pressed") == "true"
    assert "add to 1" in browser.find_element(CSS, "#map-title").text
    reached = sum(1 for _ in browser.find_elements(CSS, ".inputs > g:not(.dim)"))
    if name == "image":
        assert len(browser.find_elements(CSS, "#map rect:not(.dim)")) == reached
    browser.find_element(CSS, "[data-class='']").click()
    assert lit(browser) == 0
    browser.find_element(CSS, "#u3-0 circle").click()
    assert browser.find_element(CSS, "[data-class='0']").get_attribute("aria-pressed") == "true"


def test_the_slider_shows_the_strongest_paths(browser, pages, studies):
    show(browser, pages["table"])
    found = studies["table"]
    shown = "return [...document.querySelectorAll('.edges path:not(.off)')].length"
    assert browser.execute_script(shown) == found.drawn.counts["edges"]
    slide = (
        "const s = document.getElementById('strongest'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(slide, 0)
    assert browser.execute_script(shown) == 3
    browser.execute_script(slide, 2)
    assert browser.execute_script(shown) == int((found.ranked.rank <= 3).sum())
    assert "strongest 3 of" in browser.find_element(CSS, "#strongest-said").text
    slider = browser.find_element(CSS, "#strongest")
    slider.send_keys("\ue013" * 40)  # arrow up
    assert browser.execute_script(shown) == found.drawn.counts["edges"]
    assert slider.get_attribute("aria-valuetext").startswith("all ")


@pytest.mark.parametrize("name", ["image", "table"])
def test_a_sample_shows_its_live_paths_and_what_they_add_up_to(browser, pages, studies, name):
    show(browser, pages[name])
    found = studies[name]
    made = contributions(found.drawn, torch.stack([one.inputs for one in found.samples]))
    for i, sample in enumerate(found.samples[:4]):
        browser.find_element(CSS, f"[data-sample='{i}']").click()
        said = browser.find_element(CSS, "#said").text
        assert f"The sample is {found.classes[sample.label]}, read as" in said
        told = int(made.outputs[i].argmax())
        data = browser.find_element(CSS, "#network").get_property("dataset")
        assert float(data["value"]) == pytest.approx(float(made.outputs[i, told]), abs=1e-4)
        assert float(data["sum"]) == pytest.approx(float(made.inputs[i, told].sum()), abs=1e-4)
        dead = len(browser.find_elements(CSS, ".units > .dead"))
        assert dead == sum(int((~on[i]).sum()) for on in made.live[:-1])
    browser.find_element(CSS, "[data-sample='3']").click()
    assert "live" not in browser.find_element(CSS, "#said").text


def test_the_keyboard_walks_units_holds_one_and_lets_go(browser, pages, studies):
    show(browser, pages["table"])
    stops = browser.execute_script("return document.querySelectorAll('#network [tabindex=\"0\"]').length")
    assert stops == len(studies["table"].drawn.units)
    browser.execute_script("document.querySelector('.inputs [tabindex=\"0\"]').focus()")
    assert lit(browser) > 0
    first = browser.execute_script("return document.activeElement.id")
    press(browser, "\ue015")  # arrow down
    second = browser.execute_script("return document.activeElement.id")
    assert second != first
    press(browser, "\ue014")  # arrow right
    assert browser.execute_script("return document.activeElement.id").startswith("u1-")
    held = browser.execute_script("return document.activeElement")
    press(browser, "\ue007")  # enter
    assert held.get_attribute("aria-pressed") == "true"
    browser.execute_script("document.activeElement.blur()")
    assert lit(browser) > 0
    browser.execute_script("arguments[0].focus()", held)
    press(browser, "\ue00c")  # escape
    assert held.get_attribute("aria-pressed") == "false"
    label = browser.execute_script("return document.activeElement.getAttribute('aria-label')")
    assert "reads" in label
    assert "feeds" in label


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["image", "table"])
def test_text_has_contrast(browser, pages, name, scheme):
    show(browser, pages[name], scheme=scheme)
    worst = worst_contrast(browser)
    assert worst[0] >= 4.5, worst
