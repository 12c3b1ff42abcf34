"""Look at the built book in a browser: accessibility, console, outside requests, screenshots.

Run by hand, it is no part of `make test`:

    pip install playwright && npm pack axe-core
    python tests/browser_check.py build/book/_build/html --axe axe-core-*.tgz --pictures build/pictures

Needs playwright for Python and a Chromium (`--chromium`, /usr/bin/chromium unless given). Without
`--axe` the accessibility rules are left out. Exit status 1 when anything is found.
"""

import argparse
import functools
import http.server
import sys
import tarfile
import threading
from pathlib import Path

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def serve(folder):
    """Serve a folder on a free local port; return its address."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def axe_source(path):
    """Return the text of axe.min.js, which may lie in the package that `npm pack` fetches."""
    if path.suffix == ".js":
        return path.read_text()
    with tarfile.open(path) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


def pages_of(folder):
    """Return the pages that a reader sees, as addresses below the folder."""
    found = [page.relative_to(folder).as_posix() for page in folder.rglob("*.html")]
    # the first index.html only leads on to book/index.html
    return sorted(p for p in found if not p.startswith(("_static/", "_sources/")) and p != "index.html")


def look_at(browser, address, page_name, theme, width, axe, pictures):
    """Open one page; return what is wrong with it, a line each."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.add_init_script(f"localStorage.setItem('mode', '{theme}'); localStorage.setItem('theme', '{theme}')")
    wrong = []
    page.on("console", lambda m: m.type in ("error", "warning") and wrong.append(f"console: {m.text}"))
    page.on("pageerror", lambda error: wrong.append(f"script error: {error}"))
    page.on(
        "request",
        lambda r: (
            r.url.startswith(("http:", "https:"))
            and not r.url.startswith(address)
            and wrong.append(f"outside request: {r.url}")
        ),
    )
    page.on("response", lambda r: r.status >= 400 and wrong.append(f"status {r.status}: {r.url}"))
    page.goto(f"{address}/{page_name}", wait_until="networkidle")
    # what fades in would be measured half transparent
    page.add_style_tag(content="*, ::before, ::after { animation: none !important; transition: none !important }")
    page.evaluate("document.querySelectorAll('.bd-article details').forEach(d => d.open = true)")
    too_wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if too_wide > 1:
        wrong.append(f"the page is {too_wide} px wider than the window")
    if axe:
        page.evaluate(axe)
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        for rule in result["violations"]:
            for node in rule["nodes"]:
                wrong.append(f"axe {rule['id']} ({rule['impact']}): {node['target'][0]}  {node['html'][:160]}")
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        name = page_name.removesuffix(".html").replace("/", "-")
        page.screenshot(path=pictures / f"{name}-{theme}-{width}.png", full_page=True)
    page.close()
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("book", nargs="?", type=Path, default=Path("build/book/_build/html"))
    parser.add_argument("--axe", type=Path, help="axe-core's package (.tgz) or axe.min.js")
    parser.add_argument("--pictures", type=Path, help="folder for screenshots")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--pages", default="", help="only pages whose address holds this text")
    parser.add_argument("--widths", default="1280,400")
    arguments = parser.parse_args()
    if not (arguments.book / "index.html").is_file():
        sys.exit(f"there is no book in {arguments.book}: run `make book`, or name its folder")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("this check needs playwright: pip install playwright")

    axe = axe_source(arguments.axe) if arguments.axe else None
    address = serve(arguments.book)
    count = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=FLAGS)
        for name in pages_of(arguments.book):
            if arguments.pages not in name:
                continue
            for theme in ("light", "dark"):
                for width in map(int, arguments.widths.split(",")):
                    wrong = look_at(browser, address, name, theme, width, axe, arguments.pictures)
                    count += len(wrong)
                    print(f"{name}  {theme}  {width} px  {'ok' if not wrong else ''}")
                    for line in sorted(set(wrong)):
                        print(f"    {line}")
        browser.close()
    print(f"{count} findings")
    sys.exit(count > 0)


if __name__ == "__main__":
    main()
