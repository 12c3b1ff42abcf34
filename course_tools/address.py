"""Copy the repository's address from _config.yml to the places that must spell it out."""

import re
from pathlib import Path

import yaml

from course_tools.chapters import UserError, all_chapters, chapter_path

COLAB = "https://colab.research.google.com/github/"


def read_address(root: Path) -> tuple[str, str]:
    """The repository's url and branch, from _config.yml."""
    try:
        repository = yaml.safe_load((root / "_config.yml").read_text())["repository"]
        url, branch = repository["url"].rstrip("/"), repository["branch"]
    except (KeyError, TypeError) as error:
        raise UserError(f"_config.yml has no repository with a url and a branch ({error}).") from error
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        raise UserError(f"_config.yml: {url!r} is not like https://github.com/owner/name.")
    return url, branch


def _pages(url: str) -> str:
    owner, name = url.split("/")[-2:]
    return f"https://{owner}.github.io/{name}"


def _spelled(text: str, url: str, branch: str, old: str, path: str | None) -> str:
    """A text with the address in all its forms; `path` is the Colab link's notebook, if it is one."""
    slug = url.removeprefix("https://github.com/")
    text = re.sub(re.escape(old) + r"(?![\w-])", url, text)
    text = re.sub(re.escape(_pages(old)) + r"(?![\w-])", _pages(url), text)
    text = re.sub(r"git\+https?://[^\s\"'\\`)]+", f"git+{url}", text)
    text = re.sub(r"git clone https?://[^\s\"'\\`)]+", f"git clone {url}", text)
    text = re.sub(r"(?m)^(repository-code: *\"?)https?://[^\s\"]+", rf"\g<1>{url}", text)
    text = re.sub(r"(?m)^(Repository *= *\")https?://[^\"]+", rf"\g<1>{url}", text)
    link = re.compile(re.escape(COLAB) + r"[\w.-]+/[\w.-]+/blob/[^\s\"'\\)/]+/([^\s\"'\\)]+)")
    return link.sub(lambda m: f"{COLAB}{slug}/blob/{branch}/{path or m[1]}", text)


def address(root: Path, write: bool = True) -> list[str]:
    """The files whose copy of the address differs from _config.yml; with write=True, mend them."""
    url, branch = read_address(root)
    # The copy in pyproject.toml says what the other files were last set to
    project = (root / "pyproject.toml").read_text()
    old = re.search(r"(?m)^Repository *= *\"([^\"]+)\"", project)
    if not old:
        raise UserError('pyproject.toml has no line Repository = "..." under [project.urls].')
    notebooks = {chapter_path(root, chapter): chapter for chapter in all_chapters(root)}
    names = ("README.md", "CONTRIBUTING.md", "CITATION.cff", "pyproject.toml", "_config.yml")
    files = [root / name for name in names if (root / name).is_file()]
    differing = []
    for file in [*notebooks, *sorted((root / "book").glob("*.md")), *files]:
        text = file.read_text(encoding="utf-8")
        path = f"notebooks/{notebooks[file]}.ipynb" if file in notebooks else None
        mended = _spelled(text, url, branch, old[1], path)
        if mended != text:
            differing.append(file.relative_to(root).as_posix())
            if write:
                file.write_text(mended, encoding="utf-8")
    return differing
