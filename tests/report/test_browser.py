"""The page in a real browser: headless Chromium at the widths of a desktop and a phone."""

from __future__ import annotations

import json

import pytest
from browsing import browser, show, worst_contrast
from made import made_record
from made_trust import made_trust

from secateur.report import write

pytestmark = pytest.mark.browser
__all__ = ["browser"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    made_trust().save(folder / "30" / "trust.json")
    return {n: write(made_record(groups=n), folder / str(n))["page"].as_uri() for n in (30, 300)}


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("groups", [30, 300])
def test_the_page_never_scrolls_sideways(browser, pages, width, groups):
    show(browser, pages[groups], width)
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_no_errors_and_no_requests(browser, pages):
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    show(browser, pages[30])
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("data:", "about:"))] == [pages[30]]


def test_dark_mode_changes_the_colours(browser, pages):
    colours = {}
    for scheme in ("light", "dark"):
        show(browser, pages[30], scheme=scheme)
        colours[scheme] = browser.execute_script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
    assert colours["light"][0] != colours["dark"][0]
    assert colours["light"][1] != colours["dark"][1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser, pages, scheme):
    show(browser, pages[30], scheme=scheme)
    worst = worst_contrast(browser)
    assert worst[0] >= 4.5, worst


def test_one_drawing_of_the_plot_is_shown_at_each_width(browser, pages):
    for width, shown in ((1280, "wide"), (390, "narrow")):
        show(browser, pages[30], width)
        visible = browser.execute_script(
            "return [...document.querySelectorAll('#stages figure')].filter(f => f.offsetParent).map(f => f.className)"
        )
        assert visible == [shown]


def test_bars_find_and_copy_work(browser, pages):
    show(browser, pages[30])
    by = "css selector"
    assert browser.find_element(by, ".by-width").is_displayed()
    browser.find_element(by, "input[value=share]").click()
    assert browser.find_element(by, ".by-share").is_displayed()
    assert not browser.find_element(by, ".by-width").is_displayed()
    browser.find_element(by, "#find").send_keys("LAYER2.3")
    shown = [row for row in browser.find_elements(by, "#width-rows tr") if row.is_displayed()]
    assert [row.find_element(by, "code").text for row in shown] == ["layer2.3.conv1"]
    assert browser.find_element(by, "#found").text == "1 of 30 groups"
    button = browser.find_element(by, "#copy")
    button.click()
    browser.implicitly_wait(2)
    assert browser.find_element(by, "#copy").text in ("Copied", "Press Ctrl+C")


def test_the_keyboard_reaches_every_control(browser, pages):
    show(browser, pages[300])
    controls = "document.querySelectorAll('a[href], button, input, summary, .scroll.tall, pre')"
    assert browser.execute_script(f"return [...{controls}].every(e => e.tabIndex >= 0)")
    assert browser.execute_script("return document.querySelector('.scroll.tall').getAttribute('aria-label')")
