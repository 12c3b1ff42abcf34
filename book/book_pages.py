"""A small Sphinx extension for this book's pages: the repository's address, and accessibility.

It mends at build time what the theme and the notebook renderer leave unfinished for people who
read with a keyboard or a screen reader.
"""

import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parent.parent


def repository_name(url):
    """Return the last part of a repository's address: the folder that a clone makes."""
    return urlsplit(url).path.strip("/").removesuffix(".git").rpartition("/")[2]


def site_address(url):
    """Return where GitHub Pages publishes the book of this repository, or "" if it is elsewhere."""
    parts = urlsplit(url)
    owner = parts.path.strip("/").partition("/")[0].lower()
    return f"https://{owner}.github.io/{repository_name(url)}/" if parts.hostname == "github.com" else ""


def fill_address(text, url):
    """Return a page's source with the repository's address and name filled in."""
    return text.replace("{{ repository }}", url).replace("{{ name }}", repository_name(url))


def mend_body(body):
    """Return a page's HTML with the roles and names that assistive programs need."""
    # a list must hold list items, and bibtex marks its entries otherwise
    body = body.replace('role="doc-biblioentry"', 'role="listitem"')
    # an empty heading cell says nothing: the corner of a table is a plain cell
    body = re.sub(r"<th([^>]*)>(?:\s|&nbsp;|&#160;|</?p>)*</th>", r"<td\1></td>", body)
    # a folded cell is called by the words that it shows
    body = body.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    # the Colab badge comes from another host: in the book its words stand in its place
    body = re.sub(r'<img alt="([^"]*)" src="https://colab[^"]*badge[^"]*"[^>]*>', r"\1", body)
    return body


def needed_scripts(scripts, body):
    """Return the scripts of a page, each once, without those that the page has no use for."""
    kept, seen = [], set()
    for script in scripts:
        text = f"{getattr(script, 'filename', script)} {getattr(script, 'attributes', {}).get('body')}"
        # live code cells are switched off, and most pages hold no mathematics
        unused = "thebe" in text.lower() or ("mathjax" in text.lower() and 'class="math' not in body)
        if text not in seen and not unused:
            kept.append(script)
        seen.add(text)
    return kept


def setup(app):
    # so that the API page describes this checkout, whether or not the package is installed
    sys.path.insert(0, str(REPOSITORY))

    def repository_url():
        return app.config.html_theme_options.get("repository_url", "")

    def set_site_address(app, config):
        config.ogp_site_url = config.ogp_site_url or site_address(repository_url())

    def fill_source(app, docname, source):
        if docname.startswith("book/"):
            source[0] = fill_address(source[0], repository_url())

    def mend_page(app, pagename, templatename, context, doctree):
        body = context.get("body") or ""
        context["body"] = mend_body(body)
        context["script_files"] = needed_scripts(context.get("script_files", []), body)
        context["css_files"] = [f for f in context.get("css_files", []) if "thebe" not in str(f.filename)]

    app.connect("config-inited", set_site_address, priority=900)
    app.connect("source-read", fill_source)
    app.connect("html-page-context", mend_page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
