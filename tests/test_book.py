"""The book builds without a warning, and what its pages point to is there."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from course_tools.book import book

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("settings", "data", "training", "networks", "summary", "plots", "records", "race")
BUILD = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
LOADED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "manifest"}
FILE_NAME = re.compile(r"\.(png|jpe?g|gif|svg|webp)$", re.IGNORECASE)


class Page(HTMLParser):
    """What one HTML page names, points to, loads and shows."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.images: list[dict] = []
        self.bad_outputs: list[str] = []
        self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        values = {name: value or "" for name, value in attributes}
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        self._in_style = tag == "style"
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and LOADED_LINKS & set(values.get("rel", "").split()):
            self.loads.append(values.get("href", ""))
        elif tag != "a" and values.get("src"):
            self.loads.append(values["src"])
        if tag == "object" and values.get("data"):
            self.loads.append(values["data"])
        self.loads += [part.split()[0] for part in values.get("srcset", "").split(",") if part.strip()]
        self.loads += addresses_in_css(values.get("style", ""))
        if tag == "img":
            self.images.append(values)
        classes = set(values.get("class", "").split())
        if "output" in classes and classes & {"traceback", "stderr", "error"}:
            self.bad_outputs.append(" ".join(sorted(classes)))

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.loads += addresses_in_css(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False


def addresses_in_css(text: str) -> list[str]:
    """Return what a style sheet loads, data inside the sheet left out."""
    found = re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(r"@import\s+['\"]([^'\"]+)", text)
    return [address for address in found if not address.startswith(("data:", "#"))]


def check_site(folder: Path) -> list[str]:
    """Return what is wrong with the HTML pages below a folder, one line each."""
    pages = {
        path: Page(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.html"))
        if "_static" not in path.relative_to(folder).parts
    }
    wrong = []

    def look(path: Path, address: str, kind: str) -> Path | None:
        """Note an address that leads nowhere; return the file that it names."""
        parts = urlsplit(address)
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if target.is_dir():
            target = target / "index.html"
        if not target.is_file() or not target.is_relative_to(folder):
            wrong.append(f"{path.relative_to(folder)}: {kind} to {address}, which is not there")
            return None
        if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
            wrong.append(f"{path.relative_to(folder)}: {kind} to {address}, which has no such anchor")
        return target

    sheets = set()
    for path, page in pages.items():
        name = path.relative_to(folder)
        for address in page.links:
            if not urlsplit(address).scheme and not address.startswith("//") and address != "#":
                look(path, address, "a link")
        for address in page.loads:
            if address.startswith("data:"):
                continue
            if urlsplit(address).scheme or address.startswith("//"):
                wrong.append(f"{name}: loads {address} from another host")
            else:
                target = look(path, address, "a reference")
                sheets |= {target} if target and target.suffix == ".css" else set()
        for image in page.images:
            alt = image.get("alt")
            if alt is None or FILE_NAME.search(alt) or re.fullmatch(r"[0-9a-f_-]{16,}", alt):
                wrong.append(f"{name}: the image {image.get('src')} has the alt text {alt!r}")
        wrong += [f"{name}: shows an output of class {classes}" for classes in page.bad_outputs]
    for sheet in sheets:
        for address in addresses_in_css(sheet.read_text(encoding="utf-8")):
            if urlsplit(address).scheme or address.startswith("//"):
                wrong.append(f"{sheet.relative_to(folder)}: loads {address} from another host")
    return wrong


def toc_files() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]


CHAPTERS = [name for name in toc_files() if name.startswith("notebooks/")]


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """The folder of the book's pages, built as `make book` does it, but elsewhere."""
    folder = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-c", BUILD, "build", str(ROOT), "-W", "-n", "--keep-going"]
    done = subprocess.run(
        [*command, "--path-output", str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return folder / "_build/html"


def test_every_page_is_built(built):
    assert [name for name in toc_files() if not (built / f"{name}.html").is_file()] == []


def test_every_committed_notebook_is_in_the_contents():
    """Others, such as a copy that JupyterLab has made, are no chapters and change nothing."""
    command = ["git", "ls-files", "notebooks"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {name.removesuffix(".ipynb") for name in found if name.endswith(".ipynb")} == set(CHAPTERS)


def test_the_builder_talks_to_a_file(tmp_path, capfd):
    """The terminal shows how far it is, what it complains about and where the rest is; not the hundreds of lines."""
    (tmp_path / "_config.yml").write_text("title: toy\nonly_build_toc_files: true\n")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n  - file: page\n")
    (tmp_path / "index.md").write_text("# Toy\n")
    (tmp_path / "page.md").write_text("# Page\n\n[gone](gone.md)\n")
    assert book(tmp_path) == 1
    told = capfd.readouterr()
    assert told.out == "Building the book: reading sources\nBuilding the book: writing output\n"
    first, *complaints, last = told.err.splitlines()
    assert first == "The book was not built:" and last == f"All that the builder said is in {tmp_path}/build/book.log"
    assert any("page.md:3: WARNING" in line and "gone.md" in line for line in complaints) and len(complaints) < 5
    assert len((tmp_path / "build/book.log").read_text().splitlines()) > 20
    (tmp_path / "page.md").write_text("# Page\n")
    assert book(tmp_path) == 0
    told = capfd.readouterr()
    assert f"The book is in {tmp_path}/build/book/_build/html\n" in told.out and told.err == ""
    assert len(told.out.splitlines()) == 4


def test_links_images_and_outputs(built):
    assert check_site(built.resolve()) == []


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_starts_on_colab(built, name):
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
    slug = urlsplit(repository["url"]).path.strip("/")
    address = f"https://colab.research.google.com/github/{slug}/blob/{repository['branch']}/{name}.ipynb"
    assert address in Page((built / f"{name}.html").read_text()).links


def test_mathematics_is_set_by_our_own_files(built):
    pages = [(built / f"{name}.html").read_text() for name in CHAPTERS]
    formulas = [page for page in pages if 'class="math' in page]
    assert formulas, "no chapter holds a formula"
    assert all("_static/mathjax/tex-mml-chtml.js" in page for page in formulas)


def test_api_page_names_every_public_function(built):
    anchors = Page((built / "book/api.html").read_text()).anchors
    missing = []
    for module_name in MODULES:
        module = importlib.import_module(f"course_utils.{module_name}")
        for name, thing in vars(module).items():
            own = getattr(thing, "__module__", None) == module.__name__
            if own and not name.startswith("_") and (inspect.isfunction(thing) or inspect.isclass(thing)):
                anchor = f"{module.__name__}.{name}"
                missing += [anchor] if anchor not in anchors else []
    assert missing == []


# ---- the checker itself: it must find each kind of fault ----

GOOD = """<!DOCTYPE html><html><head><link rel="stylesheet" href="style.css"></head>
<body id="top"><a href="#top">up</a> <a href="other.html#there">on</a> <a href="https://example.org/">out</a>
<img src="dot.png" alt="A dot"><img src="dot.png" alt=""><div class="output stream">1</div></body></html>"""


@pytest.fixture
def site(tmp_path):
    (tmp_path / "page.html").write_text(GOOD)
    (tmp_path / "other.html").write_text('<html><body><p id="there">here</p></body></html>')
    (tmp_path / "style.css").write_text("body { background: url(dot.png) }")
    (tmp_path / "dot.png").write_bytes(b"")
    return tmp_path


def test_checker_passes_a_good_site(site):
    assert check_site(site.resolve()) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("other.html#there", "missing.html", "a link to missing.html, which is not there"),
        ("other.html#there", "other.html#nowhere", "no such anchor"),
        ('href="#top"', 'href="#bottom"', "no such anchor"),
        ('<img src="dot.png" alt="A dot">', '<img src="gone.png" alt="A dot">', "a reference to gone.png"),
        ('alt="A dot"', "", "has the alt text None"),
        ('alt="A dot"', 'alt="../_images/8f14e45fceea167a5a36dedd4bea2543.png"', "has the alt text"),
        ("output stream", "output traceback highlight-ipythontb", "shows an output of class"),
        ("output stream", "output stderr highlight-none", "shows an output of class"),
        ("dot.png", "https://example.org/dot.png", "loads https://example.org/dot.png from another host"),
        ("style.css", "//example.org/style.css", "from another host"),
        ("</head>", "<style>@import 'https://example.org/a.css';</style></head>", "from another host"),
        ("</body>", '<script src="https://example.org/a.js"></script></body>', "from another host"),
        ("</body>", '<img alt="x" src="dot.png" srcset="https://example.org/a.png 2x"></body>', "from another host"),
    ],
)
def test_checker_finds(site, old, new, found):
    assert old in GOOD
    (site / "page.html").write_text(GOOD.replace(old, new))
    assert any(found in line for line in check_site(site.resolve()))


def test_checker_reads_style_sheets(site):
    (site / "style.css").write_text("@font-face { src: url('https://example.org/font.woff2') }")
    assert any("from another host" in line for line in check_site(site.resolve()))


# ---- the book's own Sphinx extension ----


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "book"))
    return importlib.import_module("book_pages")


def test_addresses_follow_from_the_repository(pages):
    url = "https://github.com/Some-Owner/the-name"
    assert pages.site_address(url) == "https://some-owner.github.io/the-name/"
    assert pages.site_address("https://example.org/a/b") == ""
    filled = pages.fill_address("git clone {{ repository }}\ncd {{ name }}", url)
    assert filled == f"git clone {url}\ncd the-name"


def test_body_is_mended(pages):
    badge = '<img alt="Open in Colab" src="https://colab.research.google.com/assets/colab-badge.svg" />'
    assert pages.mend_body(f"<a>{badge}</a>") == "<a>Open in Colab</a>"
    assert pages.mend_body("<th></th><th>a</th>") == "<td></td><th>a</th>"
    assert pages.mend_body('<th class="head"><p></p></th>') == '<td class="head"></td>'
    assert pages.mend_body('<summary aria-label="Toggle hidden content">') == "<summary>"
    assert pages.mend_body('<div role="doc-biblioentry">') == '<div role="listitem">'
