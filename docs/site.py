"""Lays out the site like the checkout, for mkdocs (`make docs`): pages and what they link to keep their paths."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import trialign

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = ("*.md", "docs/*.md", "benchmarks/*.md", "slurm/*.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace what lies in docs/ by all pages of the checkout and the files that they link to."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    pages = {page for pattern in PAGES for page in CHECKOUT.glob(pattern)}
    for path in sorted(pages | {found for page in pages for found in linked(page)}):
        uri = path.relative_to(CHECKOUT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def linked(page: Path) -> set[Path]:
    """Return the files of the checkout that a page links to."""
    links = re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text())
    return {path for link in links if (path := (page.parent / link).resolve()).is_file()}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Add the docstrings of the public names to the page that lists them."""
    if page.file.src_uri != "docs/api.md":
        return markdown
    return "\n\n".join([markdown, "## Names", *(f"::: trialign.{name}" for name in trialign.__all__)])
