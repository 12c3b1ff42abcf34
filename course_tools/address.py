"""Copy the repository's address from _config.yml to the places that must spell it out."""

import re
import subprocess
from pathlib import Path

import yaml

from course_tools.chapters import UserError


def read_address(root: Path) -> tuple[str, str]:
    """The repository's url and branch, from _config.yml."""
    try:
        repository = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]
        url, branch = repository["url"].rstrip("/"), repository["branch"]
    except (KeyError, TypeError) as error:
        raise UserError(f"_config.yml has no repository with a url and a branch ({error}).") from error
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
        raise UserError(f"_config.yml: {url!r} is not like https://github.com/owner/name.")
    return url, branch


def address(root: Path, write: bool = True) -> list[str]:
    """The committed files whose copy of the address differs from _config.yml; with write=True, mend them.

    The copy in pyproject.toml says what the others were last set to: that is what is looked for, as a repository
    (with the branch, in a link to one of its files) and as the address of its pages.
    """
    url, branch = read_address(root)
    set_to = re.search(r"(?m)^Repository *= *\"https://github\.com/(.+?)/(.+?)\"", _text(root / "pyproject.toml") or "")
    if not set_to:
        raise UserError('pyproject.toml has no line Repository = "https://github.com/..." under [project.urls].')
    owner, name = url.split("/")[-2:]
    was, named = map(re.escape, set_to.groups())
    old = re.compile(rf"(github(?:\.com)?/){was}/{named}(?![\w-])(/blob/[^/\s]+)?|//{was}\.github\.io/{named}(?![\w-])")

    def new(found: re.Match) -> str:
        if not found[1]:
            return f"//{owner}.github.io/{name}"
        return f"{found[1]}{owner}/{name}" + (f"/blob/{branch}" if found[2] else "")

    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, encoding="utf-8")
    if listed.returncode:
        raise UserError(f"The address is looked for in the files that git knows, but {listed.stderr.strip()}.")
    differing = []
    for file in filter(None, listed.stdout.split("\0")):
        text = _text(root / file)
        mended = old.sub(new, text or "")
        if text and mended != text:
            differing.append(file)
            if write:
                (root / file).write_text(mended, encoding="utf-8", newline="\n")
    return differing


def _text(path: Path) -> str | None:
    """What a file holds; None if it is a picture, or not there."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
