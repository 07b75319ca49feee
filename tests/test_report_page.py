"""report.html in a browser: no error, a hover and a click, keys, a phone's width, paper."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from resealed import reseal
from sampled import sampled

from nanlab import reporting
from nanlab.reporting.figures import PAGE_COLORS
from nanlab.reporting.write import write_report

RESULTS = Path(__file__).resolve().parents[1] / "results"
QUICK = ("quickstart",)
STUDIES = [
    *QUICK,
    *(pytest.param(name, marks=pytest.mark.slow)
      for name in ("gradient_descent", "stable_learning_rate", "deep_relu", "tanh_critical_line",
                   "claims/E08")),
]  # fmt: skip
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
in_a_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="Chromium and its driver are not installed, so no page is opened: "
    "apt-get install chromium chromium-driver",
)
PHONE, DESKTOP = 360, 1100
# A4 with the margins that browsers print, in CSS pixels.
PAPER_WIDE, PAPER_HIGH = 718, 1047


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports of committed studies by name, each written when it is first read."""
    root = tmp_path_factory.mktemp("pages")

    class Pages(dict):
        def __missing__(self, name):
            shutil.copytree(RESULTS / name, root / name)
            with pytest.MonkeyPatch.context() as patch:  # the page has its own
                patch.setattr("nanlab.reporting.figures.save_figure", lambda *_: None)
                self[name] = write_report(root / name).page
            return self[name]

    return Pages()


# ---- as a file ----

VOID = {"meta", "br", "hr", "img", "link", "input", "path", "rect", "circle"}


class Reader(HTMLParser):
    """Sees that every element is closed in its turn."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_is_one_small_file_that_asks_nothing_of_a_network(name, pages):
    text = pages[name].read_text()
    assert len(text.encode()) < 2_000_000
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert len(set(reader.ids)) == len(reader.ids)
    assert not {"link", "img", "iframe", "object"} & set(reader.tags)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize("name", STUDIES)
def test_every_chart_is_the_one_column_figure_with_its_caption(name, pages):
    text = pages[name].read_text()
    folder = pages[name].parent / "figures"
    names = {path.name.removesuffix("-1col.svg") for path in folder.glob("*-1col.svg")}
    charts = re.findall(r'<figure id="(\w+)" class="chart">(.*?)</figure>', text, flags=re.DOTALL)
    assert {name for name, _ in charts} == names - {"outcomes"}
    for chart, content in charts:
        view_box = re.search(r'viewBox="[^"]*"', (folder / f"{chart}-1col.svg").read_text())[0]
        assert view_box in content
        assert f'aria-labelledby="{chart}-caption"' in content
        assert f'<figcaption id="{chart}-caption">' in content
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', content))
        assert used <= set(re.findall(r'\bid="([^"]+)"', content)), "every reference is its own"


@pytest.mark.parametrize("name", STUDIES)
def test_behind_each_map_there_is_a_table_with_the_same_cells(name, pages):
    text = pages[name].read_text()
    data = json.loads(
        re.search(r'<script type="application/json" id="data">(.*)</script>', text)[1]
    )
    assert len(re.findall(r'<svg class="map"', text)) == len(data["panels"])
    shown = re.findall(r'<button type="button" data-cell="(\d+)">([^<]*)</button>', text)
    assert sorted(int(i) for i, _ in shown) == list(range(len(data["cells"])))
    for i, told in shown:
        counts = data["cells"][int(i)][4]
        assert told == ", ".join(f"{n:,} {data['outcomes'][o]}" for o, n in counts)


def test_a_title_that_looks_like_a_tag_is_shown_and_not_run(tmp_path):
    folder = tmp_path / "gradient_descent"
    shutil.copytree(RESULTS / "gradient_descent", folder)
    grid = folder / "grid.resolved.toml"
    evil = "</script><script>alert(1)</script>&amp;"
    old = json.loads((folder / "manifest.json").read_text())["title"]
    grid.write_text(grid.read_text().replace(old, evil))
    reseal(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanlab.reporting.write.write_figures", lambda folder, analysis: {})
        text = write_report(folder).page.read_text()
    assert "alert(1)</script>" not in text
    assert "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;" in text


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync",
        "disable-dev-shm-usage", f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def opened(browser, page, width, **more):
    settings = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings | more)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen"})
    browser.get(page.as_uri())
    return browser


def at_cell(browser, i, *, block="start"):
    """Where cell `i` is on the screen: its map, and the pixels of its middle."""
    script = """
    const data = JSON.parse(document.getElementById("data").textContent);
    const [panel, , , box] = data.cells[arguments[0]];
    const svg = document.querySelector(`svg.map[data-panel="${panel}"]`);
    if (arguments[1]) svg.scrollIntoView({ block: arguments[1] });
    const rect = svg.getBoundingClientRect(), scale = rect.width / svg.viewBox.baseVal.width;
    return [rect.left + (box[0] + box[2] / 2) * scale, rect.top + (box[1] + box[3] / 2) * scale];
    """
    return browser.execute_script(script, i, block)


def mouse(browser, kind, x, y, **more):
    event = {"type": kind, "x": x, "y": y, "button": "none", **more}
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)


def click(browser, x, y):
    mouse(browser, "mouseMoved", x, y)
    for kind in ("mousePressed", "mouseReleased"):
        mouse(browser, kind, x, y, button="left", clickCount=1)


def shown(browser, name):
    from selenium.webdriver.common.by import By

    element = browser.find_element(By.ID, name)
    return element.text if element.is_displayed() else None


def selected(browser):
    """The number of cells that are marked as selected."""
    script = """
    return [...document.querySelectorAll(".selected")].filter(e => +e.getAttribute("width")).length
    """
    return browser.execute_script(script)


def cell_of(page, **wanted):
    """The number of the quickstart's cell with these settings, and its row of the data."""
    text = page.read_text()
    data = json.loads(
        re.search(r'<script type="application/json" id="data">(.*)</script>', text)[1]
    )
    for i, (panel, column, row, *_) in enumerate(data["cells"]):
        told = {"panel": data["panels"][panel], "x": data["x"]["labels"][column],
                "y": data["y"]["labels"][row]}  # fmt: skip
        if told == wanted:
            return i
    raise AssertionError(wanted)


@in_a_browser
@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_shows_its_maps_without_an_error_and_fits_the_screen(name, width, pages, browser):
    opened(browser, pages[name], width)
    assert browser.get_log("browser") == []
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('svg.map')].map(s => s.getBoundingClientRect().width)"
    )
    assert sizes and all(min(width, 420) * 0.6 < size <= width for size in sizes)
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width, "nothing but a table of its own is scrolled sideways"
    if width == PHONE:
        # The smallest letters of the maps, as they come out on the screen.
        size = browser.execute_script("""
            const text = document.querySelector("svg.map text");
            return text.getBoundingClientRect().height""")
        assert size >= 9


@in_a_browser
def test_a_hover_tells_of_the_cells_runs_and_a_click_of_their_blame(pages, browser):
    page = pages["quickstart"]
    opened(browser, page, DESKTOP)
    assert (shown(browser, "tip"), shown(browser, "blame")) == (None, None)
    x, y = at_cell(browser, cell_of(page, panel="relu", x="3.162", y="21.54"))
    mouse(browser, "mouseMoved", x, y)
    tip = shown(browser, "tip").splitlines()
    assert tip[0] == "relu, init_scale = 21.54, lr = 3.162"
    assert tip[1] == "4 runs: 1 recovered, 3 nan"
    assert re.fullmatch(r"first fault at step [\d.]+ \(median\)", tip[2])
    click(browser, x, y)
    blame = shown(browser, "blame")
    assert "relu, init_scale = 21.54, lr = 3.162" in blame
    assert "first inf or NaN: overflow in" in blame
    assert "python -m nanlab.replay" in blame
    runs = re.search(r"Runs: (.*)\.", blame)[1].split(", ")
    assert len(runs) == 4 and sum(run.endswith(" nan") for run in runs) == 3
    # A cell without a failure has no blame, and the panel can be closed.
    x, y = at_cell(browser, cell_of(page, panel="tanh", x="0.001", y="0.1"))
    click(browser, x, y)
    assert "None of them failed." in shown(browser, "blame")
    from selenium.webdriver.common.by import By

    mouse(browser, "mouseMoved", 1, 1)
    assert selected(browser) == 1, "the cell stays marked while its panel is open"
    browser.find_element(By.CSS_SELECTOR, "#blame .close").click()
    assert (shown(browser, "blame"), selected(browser)) == (None, 0)
    # Where the panel would hide the cell that it tells of, the page moves up.
    cell = cell_of(page, panel="tanh", x="0.001", y="0.1")
    click(browser, *at_cell(browser, cell, block="end"))
    _, y = at_cell(browser, cell, block=None)
    top = browser.execute_script(
        "return document.querySelector('#blame').getBoundingClientRect().top"
    )
    assert y < top
    assert browser.get_log("browser") == []


@in_a_browser
def test_all_of_it_can_be_had_by_keys_and_is_said_to_screen_readers(pages, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    opened(browser, pages["quickstart"], DESKTOP)
    focused = browser.switch_to.active_element
    for _ in range(20):
        focused.send_keys(Keys.TAB)
        focused = browser.switch_to.active_element
        if focused.get_attribute("class") == "map":
            break
    assert focused.get_attribute("role") == "application"
    assert "Arrow keys" in focused.get_attribute("aria-label")
    focused.send_keys(Keys.ARROW_RIGHT)

    def said():
        return browser.find_element(By.ID, "announced").get_property("textContent").splitlines()[0]

    assert said() == "relu, init_scale = 0.1, lr = 0.001"
    focused.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP)
    assert said() == "relu, init_scale = 0.2154, lr = 0.01"
    focused.send_keys(Keys.ENTER)
    assert "relu, init_scale = 0.2154, lr = 0.01" in shown(browser, "blame")
    assert browser.switch_to.active_element.get_attribute("id") == "blame"
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert shown(browser, "blame") is None
    assert browser.switch_to.active_element == focused, "the focus is where it was"
    # The table behind the map: every cell is a button that opens the same.
    summary = browser.find_element(By.CSS_SELECTOR, ".maps summary")
    summary.send_keys(Keys.ENTER)
    button = browser.find_element(By.CSS_SELECTOR, "button[data-cell]")
    assert button.is_displayed()
    button.send_keys(Keys.ENTER)
    assert "init_scale = 100" in shown(browser, "blame")


# The lowest contrast (WCAG 2.1) of each piece of text with what is painted behind it.
CONTRAST = """
const channels = (c) => { const m = c.match(/[\\d.]+/g).map(Number);
  return [m[0], m[1], m[2], m.length > 3 ? m[3] : 1]; };
const light = ([r, g, b]) => { const f = [r, g, b].map((v) => { v /= 255;
  return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
  return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
const behind = (e) => { for (; e; e = e.parentElement) {
  const c = channels(getComputedStyle(e).backgroundColor); if (c[3] > 0.99) return c; }
  return channels(getComputedStyle(document.body).backgroundColor); };
document.querySelectorAll("details").forEach((d) => { d.open = true; });
const found = [];
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.getClientRects().length || ["SCRIPT", "STYLE"].includes(e.tagName)) continue;
  const style = getComputedStyle(e);
  const ink = light(channels(e instanceof SVGElement ? style.fill : style.color));
  const paper = light(behind(e));
  const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  found.push([ratio, `${e.tagName} ${e.textContent.trim().slice(0, 30)}`]);
}
return found;
"""


@in_a_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["quickstart", "tanh_critical_line"])
def test_every_text_has_a_contrast_of_4_5_in_light_and_in_dark(name, scheme, pages, browser):
    opened(browser, pages[name], DESKTOP)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": features})
    x, y = at_cell(browser, 0)
    click(browser, x, y)  # the panel of a cell's blames, too
    found = browser.execute_script(CONTRAST)
    assert len(found) > 100 and {"text", "BUTTON", "TD", "P"} <= {t.split()[0] for _, t in found}
    assert [text for ratio, text in found if ratio < 4.5] == []


def test_lines_and_bars_have_colors_of_their_own_for_light_and_for_dark():
    css = (Path(reporting.__file__).parent / "page.css").read_text()
    light, dark = css.split("prefers-color-scheme: dark", 1)
    for part, paper in ((light, "#ffffff"), (dark, "#17181a")):
        colors = dict(re.findall(r"--c([0-9a-f]{6}): (#[0-9a-f]{3,6});", part))
        assert set(colors) == set(PAGE_COLORS)
        for name, color in colors.items():
            assert contrast(color, paper) >= 3, (name, color, paper)


def contrast(a, b):
    def light(color):
        digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), parts, strict=True))

    low, high = sorted((light(a), light(b)))
    return (high + 0.05) / (low + 0.05)


@in_a_browser
@pytest.mark.parametrize(
    "name", [*QUICK, *sampled(["tanh_critical_line", "claims/E08"], 3, first=2)]
)
def test_on_paper_no_figure_is_cut(name, pages, browser):
    opened(browser, pages[name], PAPER_WIDE, height=PAPER_HIGH)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PAPER_WIDE
    pieces = browser.execute_script("""
        return [...document.querySelectorAll(".maps > div, figure.chart, #causes, tr")].map(e => {
            const r = e.getBoundingClientRect();
            return [r.width, r.height, r.right, getComputedStyle(e).breakInside];
        })""")
    assert len(pieces) > 3
    for wide, high, right, inside in pieces:
        assert high < PAPER_HIGH and wide <= PAPER_WIDE and right <= PAPER_WIDE + 1
        assert inside == "avoid"
    printed = base64.b64decode(browser.print_page())
    assert printed.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 2
