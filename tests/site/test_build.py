"""The site builds without a warning, each image has an alternative text, and each link inside the site has a target."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OURS = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES")
OF_SPHINX = {"genindex", "py-modindex", "search"}


class Page(HTMLParser):
    """The images, the links and the anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.images, self.links, self.anchors = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        """Notes an element."""
        named = dict(attributes)
        if tag == "img":
            self.images.append((named.get("src", ""), named.get("alt") or ""))
        if tag == "a" and "href" in named:
            self.links.append(named["href"] or "")
        self.anchors |= {named[name] for name in ("id", "name") if named.get(name)}


def undescribed(images):
    """The images without an alternative text, or with the name of a file as theirs."""
    return [source for source, text in images if not text.strip() or text.endswith((".png", ".svg", ".jpg", ".gif"))]


def broken(place, page, pages):
    """The links of a page that lead to no file or to no anchor of the site."""
    for link in page.links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
            continue
        target = (place.parent / unquote(parts.path)).resolve() if parts.path else place
        if not target.is_file() or (parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors):
            yield link


def test_the_site(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in OURS}  # notebooks use the user's cache
    site = (tmp_path / "site").resolve()
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "2", str(DOCS), str(site)]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, f"{built.stdout}{built.stderr}"[-5000:]

    pages = {path: Page(path) for path in site.rglob("*.html")}
    names = {str(path.relative_to(site).with_suffix("")) for path in pages}
    sources = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")}
    assert {name for name in names - OF_SPHINX if not name.startswith(("_downloads", "_static"))} == sources
    assert not [source for source in sources if "orphan: true" in (DOCS / f"{source}.md").read_text()]  # pages that no menu lists

    wrong = {str(path.relative_to(site)): undescribed(page.images) for path, page in pages.items() if undescribed(page.images)}
    assert not wrong, f"images without an alternative text: {wrong}"
    wrong = {str(path.relative_to(site)): list(broken(path, page, pages)) for path, page in pages.items()}
    assert not {name: links for name, links in wrong.items() if links}


def test_what_the_checks_see(tmp_path):
    (tmp_path / "b.html").write_text('<p id="there">')
    (tmp_path / "a.html").write_text(
        '<img src="x.png" alt="x.png"><img src="y.png" alt="A map.">'
        '<a href="b.html#there"></a><a href="b.html#here"></a><a href="c.html"></a>'
    )
    pages = {path: Page(path) for path in tmp_path.glob("*.html")}
    page = pages[tmp_path / "a.html"]
    assert undescribed(page.images) == ["x.png"]
    assert list(broken(tmp_path / "a.html", page, pages)) == ["b.html#here", "c.html"]
