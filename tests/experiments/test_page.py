"""The page of all reports, as a parser sees it; `tests/heavy/test_results_page.py` opens it in a browser."""

import itertools
import json
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from experiments import curves, page, report
from tests.experiments.test_report import written

VOID = {"meta", "img", "link", "input", "br", "rect", "path", "circle"}


class Reader(HTMLParser):
    """Reads a page, and refuses one whose elements are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.attributes = [], [], {}, []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, len(self.tags) - 1))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, place in self.open:
            self.words[place] = self.words.get(place, "") + data

    def named(self, *names):
        """Returns the elements of some names: their attributes and the text in them."""
        return [(tag, attributes, self.words.get(i, "")) for i, (tag, attributes) in enumerate(self.tags) if tag in names]


@pytest.fixture
def root(tmp_path):
    written(tmp_path / "b/deeper", files={"film.mp4": "a film"}, command="python -m experiments.torus --preset quick")
    written(tmp_path / "a", title="Another", published=[report.Published("a ratio", 12, 8, 15, 10, "a caption", 20, None)])
    (tmp_path / "a/store.zarr/x.zarr").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def found(root):
    return Reader(page.index(root, ("torus", "figure1")).read_text())


def test_the_page_has_every_figure_command_and_number(root, found):
    sources = [attributes["src"] for _, attributes, _ in found.named("img", "video") if "src" in attributes]
    assert sources == ["b/deeper/film.mp4", "b/deeper/the_curves.png", "a/the_curves.png"]
    assert all((root / source).exists() for source in sources if source.endswith("png"))
    text, links = (root / "index.html").read_text(), [a["href"] for _, a, _ in found.named("a")]
    assert "A &lt;title&gt;" in text and "numbers &amp; words" in text and "Bands are &lt;seeds&gt;." in text
    assert 'data-value="0.25">0.25</td>' in text and "never reached" in text and "Without a report here: figure1." in text
    assert {"a/rows.csv", "a/report.json", "a/the_curves.pdf", "a/the_curves.csv", "a/store.zarr"} <= set(links)
    assert "a/store.zarr/x.zarr" not in links and [words for _, _, words in found.named("dd")][1] == "0 to 2"
    commands = [words for tag, _, words in found.named("pre")]
    assert commands == ["python -m experiments.torus --preset quick", "python -m experiments.x --preset quick"]


def test_the_verdict_counts_what_is_better_and_what_a_claim_holds(found):
    words = " ".join(next(words for _, attributes, words in found.named("p") if attributes.get("class") == "verdict").split())
    assert words.startswith("2 studies with 3 figures. Beside 1 published result, ours is better in 1 and worse in 0; in 0 ")
    assert "Of 1 comparison with a claim of a paper, 1 overlap the claimed range." in words and "All studies are quick ones" in words


def test_the_page_is_one_for_all_readers(found):
    """One title, headings in order, names for all that acts and text for all that is seen, and every id once."""
    levels = [int(tag[1]) for tag, _, _ in found.named("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1 and levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for landmark in ("header", "nav", "main"):
        assert len(found.named(landmark)) == 1
    images = [attributes for _, attributes, _ in found.named("img") if attributes.get("id") != "large"]  # which the script fills
    assert images and all(len(image["alt"]) > 20 and image["alt"] != "the curves" and int(image["width"]) for image in images)
    assert all("h_x (nat) against iteration, both axes logarithmic. Curves: ours." in image["alt"] for image in images)
    for tag, attributes, words in found.named("button", "a", "summary", "video"):
        assert words.strip() or attributes.get("aria-label", "").strip(), (tag, attributes)
    heads = [words for _, _, words in found.named("th")]
    assert heads and all(head.strip() for head in heads)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "for"):
        assert all(attributes[name] in ids for _, attributes in found.tags if name in attributes)
    assert all(link["href"][1:] in ids for _, link, _ in found.named("a") if link["href"].startswith("#"))
    for _, attributes, _ in found.named("div"):
        assert attributes.get("role") != "region" or (attributes["aria-label"] and attributes["tabindex"] == "0")
    assert dict(found.named("html")[0][1]) == {"lang": "en"}
    assert any(a.get("name") == "viewport" for _, a, _ in found.named("meta"))


def test_the_page_loads_nothing_from_elsewhere(root, found):
    for _, attributes in found.tags:
        for name in ("src", "href", "data", "poster", "srcset", "action"):
            assert not re.match(r"(\w+:)?//|https?:", attributes.get(name) or "")
        assert not any(name.startswith("on") for name in attributes)
    text = (root / "index.html").read_text()
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|import\(", text)
    assert not found.named("iframe", "object", "embed", "form") and "{{" not in text


def test_an_end_of_the_script_in_a_label_does_not_end_it(tmp_path):
    figure = Figure()
    figure.subplots().plot([0, 1], label="</script><b>")
    written(tmp_path, figures={"x": (figure, "One.")})
    found = Reader(page.index(tmp_path).read_text())
    assert not found.named("b")
    readable = json.loads(next(words for _, attributes, words in found.named("script") if attributes.get("id") == "readable"))
    assert next(iter(readable.values()))[0]["curves"][0]["name"] == "</script><b>"


def test_reports_of_one_title_are_told_apart(tmp_path):
    for name in ("b", "a"):
        written(tmp_path / name, rows=[{"p_R": 0.5, "a_b": "0.5 +- 0.1"}])
    found = Reader(page.index(tmp_path).read_text())
    assert [words for _, _, words in found.named("h2")][1:] == ["A <title> (a)", "A <title> (b)"]
    labels = [a["aria-label"] for _, a, _ in found.named("div") if a.get("role") == "region"]
    assert len(labels) == len(set(labels)) and "pR" in [words for _, _, words in found.named("th")]
    assert [(a.get("data-value"), words) for _, a, words in found.named("td")][-2:] == [("0.5", "0.5"), ("0.5", "0.5\xa0±\xa00.1")]


def test_a_report_of_an_earlier_version_is_shown(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(dict(
        title="Old", about="It", command="python -m experiments.x", seconds=1, paper="", summary="", figures={"gone.png": "gone"}, rows=[],
    )))  # fmt: skip
    Reader(page.index(tmp_path).read_text())


def test_an_empty_folder_has_no_page(tmp_path):
    with pytest.raises(ValueError, match=r"holds no report\.json; run an experiment"):
        page.index(tmp_path)


def test_the_points_of_a_figure_lie_where_they_are_drawn():
    """On both scales, of lines and of error bars, with the name of a line that looks the same in another panel, and within the figure."""
    figure = Figure(figsize=(4, 2))
    left, right = figure.subplots(1, 2)
    left.plot([0, 4], [0, 1], "o-", color="red", label="a $\\nu$")
    left.axhline(0.5, label="level")
    left.set(xlim=(0, 4), ylim=(0, 1), xlabel="x")
    right.loglog([1, 10, 0], [1, 100, 1], "o-", color="red")
    right.errorbar([3.0], [10.0], [1.0], label="bars", capsize=2)
    right.set(xlim=(1, 10), ylim=(1, 100))
    figure.draw_without_rendering()
    (first,), (second, bars) = curves.curves_of(figure)
    assert (first.name, second.name, bars.name) == ("a nu", "a nu", "bars") and first.colour == "#ff0000"
    box = left.get_position()
    assert first.across == pytest.approx([box.x0, box.x1]) and first.down == pytest.approx([1 - box.y0, 1 - box.y1])
    middle = right.get_position()
    assert bars.across == pytest.approx([middle.x0 + 0.47712 * middle.width], rel=1e-4)
    assert bars.down == pytest.approx([1 - (middle.y0 + middle.y1) / 2])
    drawn = curves.readable(figure)
    assert [len(panel["curves"]) for panel in drawn["panels"]] == [1, 2] and drawn["panels"][1]["x"] == ""
    assert drawn["panels"][1]["curves"][0]["points"] == [[*map(round, (1e4 * middle.x0, 1e4 * (1 - middle.y0))), 1, 1], [
        *map(round, (1e4 * middle.x1, 1e4 * (1 - middle.y1))), 10, 100,
    ]]  # fmt: skip
