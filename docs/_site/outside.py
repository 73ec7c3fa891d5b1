# SPDX-License-Identifier: Apache-2.0
"""MkDocs hook: pages that do not lie in docs/, and links that hold on GitHub and on the site.

A link is written as GitHub wants it, relative to the file that it stands in. Here it is turned into the same
place of the site: docs/ is the site's root, every other file keeps its path. What a page links to and is no
page (a config, a picture, a licence) is copied as it is.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
HOME = 'README.md'
PAGES = (
    HOME,
    'CHANGELOG.md',
    'CONTRIBUTING.md',
    'configs/README.md',
    'ops/README.md',
    'ops/NOTES.md',
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob('benchmarks/**/*.md')),
)
LINK = re.compile(r'(\]\()([^)\s#:]+)(?=[)#])')


def site_path(path: str) -> str:
    """Where a file of the repository stands on the site."""
    return 'index.md' if path == HOME else path.removeprefix('docs/')


def links(path: str) -> set[str]:
    """Files of the repository that the page at ``path`` links to."""
    found = (match[2] for match in LINK.finditer((ROOT / path).read_text()))
    targets = {posixpath.normpath(posixpath.join(posixpath.dirname(path), target)) for target in found}
    return {target for target in targets if (ROOT / target).is_file()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    inside = {
        f'docs/{file.src_uri}' for file in files if file.is_documentation_page() and not file.generated_by
    }
    pages = {path for path in inside if path.endswith('.md')} | set(PAGES)
    linked = set().union(*map(links, pages)) - inside
    for path in sorted(linked | set(PAGES)):
        if files.get_file_from_path(site_path(path)) is None:
            files.append(
                File.generated(
                    config,
                    site_path(path),
                    abs_src_path=str(ROOT / path),
                    inclusion=InclusionLevel.INCLUDED,
                )
            )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    folder = posixpath.dirname(site_path(source)) or '.'

    def moved(link: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        if not (ROOT / target).is_file():
            return link[0]  # MkDocs complains of it
        return link[1] + posixpath.relpath(site_path(target), folder)

    return LINK.sub(moved, markdown)
