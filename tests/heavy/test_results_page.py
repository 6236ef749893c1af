"""The page of all reports, and the page of a fit, in a headless Chromium: wide, narrow, dark and printed, by pointer and by keyboard."""

import re
import shutil

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from dualebm.cli import main
from dualebm.plotting import charts
from experiments import page, report

NEEDS = (
    "This test opens pages in Chromium. Install it and what drives it: `apt-get install chromium` (or another package of your system that "
    "puts chromium, chromium-browser or google-chrome on the path), and `pip install -e '.[test,browser]'`."
)
SIZES = {"wide": (1280, 900, "light"), "dark": (1280, 900, "dark"), "phone": (400, 800, "light"), "dark phone": (400, 800, "dark")}


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail(NEEDS)
    if program is None:
        pytest.fail(NEEDS)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser):
    """Opens a file in a page of some size, whose console must stay empty."""
    contexts, said = [], []

    def open_in(path, width=1280, height=900, scheme="light"):
        form = dict(viewport=dict(width=width, height=height), color_scheme=scheme, reduced_motion="reduce")
        contexts.append(browser.new_context(**form))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else None)
        tab.goto(path.as_uri(), wait_until="load")
        return tab

    yield open_in
    for context in contexts:
        context.close()
    assert not said


def violations(tab) -> list[str]:
    """Returns what the accessibility checker finds, in lines."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab).response["violations"]
    return [f"{one['impact']} {one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


def sideways(tab) -> int:
    """Returns by how many pixels the page is wider than the window."""
    return tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of three reports, one with a table of many columns and rows."""
    folder = tmp_path_factory.mktemp("results")
    rng = np.random.default_rng(0)
    for name, columns, rows in (("two_teachers", 4, 5), ("torus", 24, 60), ("deep", 6, 8)):
        with matplotlib.rc_context(charts.STYLE):
            figure = Figure(figsize=(7, 3), layout="constrained")
            for panel in figure.subplots(1, 2):
                panel.loglog([1, 10, 100], [1, 0.1, 0.01], "o-", label="ours, with a long name of its settings")
                panel.set(xlabel="iteration", ylabel="KL (nat)", title=f"S^14, {name}")
        names = [f"a_long_name_{i}" for i in range(columns)]
        table = [dict(zip(names, map(float, rng.normal(size=columns)), strict=True)) | {"word": "some words"} for _ in range(rows)]
        report.write(
            folder / name, title=f"The study {name}", about="Something is measured.", seconds=3.0, rows=table, paper="has it at 0.4.",
            command=f"python -m experiments.{name} --preset quick", summary="It holds in all of them.", seeds=range(2),
            figures={"curves": (figure, "KL against the iteration. Bands are seeds.")},
            published=[report.Published(f"KL of {name}", 0.2, 0.1, 0.3, 0.4, "a table")],
        )  # fmt: skip
    page.index(folder, ("two_teachers", "torus", "deep"))
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_the_page_fits_and_is_accessible(size, root, opened):
    width, height, scheme = SIZES[size]
    tab = opened(root / "index.html", width, height, scheme)
    assert sideways(tab) == 0 and violations(tab) == []
    assert tab.evaluate("[...document.images].every((image) => image.id === 'large' || image.naturalWidth > 0)")
    brightness = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert brightness < 60 if scheme == "dark" else brightness > 200
    assert tab.locator("nav details").evaluate("(details) => details.open") == (width > 1000)
    assert tab.evaluate("[...document.querySelectorAll('.scroll')].some((box) => box.scrollWidth > box.clientWidth)")  # in themselves


def test_tables_are_sorted_studies_searched_and_figures_read(root, opened):
    tab = opened(root / "index.html")
    table = tab.locator("section.study table").nth(1)
    column = lambda: [float(text) for text in table.locator("tbody tr td:first-child").all_inner_texts()]  # noqa: E731
    button = table.get_by_role("button", name="a long name 0")
    button.press("Enter")
    assert column() == sorted(column()) and table.locator("th").first.get_attribute("aria-sort") == "ascending"
    button.click()
    assert column() == sorted(column(), reverse=True) and table.locator("th[aria-sort]").count() == 1
    tab.get_by_label("Search").fill("study TORUS")
    assert tab.get_by_role("status").inner_text() == "1 of 3 studies" and tab.locator("section.study:visible").count() == 1
    assert tab.locator("nav li:visible").count() == 2 and violations(tab) == []
    tab.get_by_label("Search").fill("")
    assert tab.locator("section.study:visible").count() == 3
    image = tab.locator(".readable img").first
    image.scroll_into_view_if_needed()
    known = tab.evaluate("JSON.parse(document.getElementById('readable').textContent)")
    across, down, first, second = next(iter(known.values()))[0]["curves"][0]["points"][1]
    box = image.bounding_box()
    tab.mouse.move(box["x"] + across * box["width"] / 1e4 + 3, box["y"] + down * box["height"] / 1e4 + 3)
    assert tab.locator(".reading").inner_text() == f"ours, with a long name of its settings\niteration: {first}\nKL (nat): {second}"
    tab.mouse.move(2, 2)
    assert tab.locator(".reading").count() == 0
    tab.locator(".readable .enlarge").first.click()
    assert tab.locator("dialog").is_visible() and tab.locator("#large").get_attribute("alt").startswith("2 panels.")
    assert violations(tab) == []
    tab.keyboard.press("Escape")
    assert not tab.locator("dialog").is_visible()
    before = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.get_by_role("button", name="Dark or light").click()
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != before and violations(tab) == []


def test_a_link_of_the_contents_leads_to_its_study(root, opened):
    tab = opened(root / "index.html", 400, 800)
    tab.locator("nav summary").click()
    tab.get_by_role("link", name="The study torus").first.click()
    tab.wait_for_timeout(500)
    top = tab.locator("#study-torus").bounding_box()["y"]
    assert tab.locator("nav").bounding_box()["y"] + tab.locator("nav summary").bounding_box()["height"] <= top < 200
    assert not tab.locator("nav details").evaluate("(details) => details.open")


def test_print_cuts_nothing(root, opened, tmp_path):
    """On paper nothing scrolls: each table is as wide as its page, which is a landscape one for many columns, and none is dark."""
    for scheme in ("light", "dark"):
        tab = opened(root / "index.html", 680, 900, scheme)  # A4 less its margins
        tab.emulate_media(media="print")
        cut = "document.querySelectorAll('.scroll, .scroll td, .scroll th, pre, figure')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
        assert tab.evaluate(f"[...{cut}.map((e) => e.outerHTML.slice(0, 200))") == []
        assert tab.evaluate("[...document.querySelectorAll('.scroll')].every((e) => e.scrollHeight <= e.clientHeight + 1)")
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not tab.locator("nav").is_visible() and not tab.locator("#theme").is_visible()
    printed = tab.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True, print_background=True)
    sizes = {tuple(round(float(part)) for part in box.split()[2:]) for box in re.findall(rb"/MediaBox \[([^\]]*)\]", printed)}
    assert {(595, 842), (842, 595)} == sizes
    assert len(re.findall(rb"/Subtype ?/Image", printed)) >= 3


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The folder of a small fit."""
    folder = tmp_path_factory.mktemp("fit")
    np.savetxt(folder / "rows.csv", np.random.default_rng(0).normal(size=(80, 2)), delimiter=",", header="a,b", comments="")
    words = ["fit", folder / "rows.csv", "--space", "euclidean", "--replicates", 2, "--stages", 2, "--iterations", 20, "--draws", 256]
    assert main.main([str(word) for word in [*words, "--neurons", 8, "--paths", 2, "--out", folder / "fit"]]) == 0
    return folder / "fit"


@pytest.mark.parametrize("size", SIZES)
def test_the_page_of_a_fit_fits_and_is_accessible(size, fitted, opened):
    width, height, scheme = SIZES[size]
    tab = opened(fitted / "report.html", width, height, scheme)
    assert sideways(tab) == 0 and violations(tab) == []
    brightness = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert brightness < 60 if scheme == "dark" else brightness > 200
