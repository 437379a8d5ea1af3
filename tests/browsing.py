"""Headless Chromium for tests of pages: the browser as a fixture, a page shown at a width, and its least contrast."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("needs chromium and chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


def show(browser, url, width=1280, scheme="light"):
    features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    listed = [{"name": name, "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": listed})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(url)


def worst_contrast(browser):
    """The least contrast between a text and what lies behind it, and the text's element."""
    return browser.execute_script(
        """
        const parse = c => (c.match(/[\\d.]+/g) || []).map(Number);
        const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const light = c => [.2126, .7152, .0722].reduce((sum, share, i) => sum + share * linear(c[i] / 255), 0);
        const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
          if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
        let worst = [99, ''];
        const texts = 'p, td, th, dt, dd, a, caption, h1, h2, h3, summary, code, text, button, .note';
        for (const e of document.querySelectorAll(texts)) {
          const style = getComputedStyle(e);
          const colours = [e.tagName === 'text' ? style.fill : style.color].map(parse);
          const [a, b] = [light(colours[0]), light(behind(e))].sort((x, y) => y - x);
          const contrast = (a + .05) / (b + .05);
          if (contrast < worst[0]) worst = [contrast, e.outerHTML.slice(0, 80)];
        }
        return worst;
        """
    )
