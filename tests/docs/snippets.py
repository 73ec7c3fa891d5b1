# SPDX-License-Identifier: Apache-2.0
"""The code blocks of the documentation."""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
# Not ops/NOTES.md: a log, whose commands are those of the day of each entry.
PAGES = (
    'README.md',
    'CONTRIBUTING.md',
    'configs/README.md',
    'ops/README.md',
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / 'docs').glob('*.md'))),
)


@dataclass
class Block:
    """A code block; ``language`` is 'bash' for an indented one."""

    page: str
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f'{self.page}:{self.line}'


def blocks(page: str) -> list[Block]:
    """Every code block of a page, those inside lists too."""
    found = []
    for token in MarkdownIt().parse((ROOT / page).read_text()):
        if token.type == 'code_block':
            found.append(Block(page, token.map[0] + 1, 'bash', '', token.content))
        elif token.type == 'fence':
            language, _, rest = token.info.strip().partition(' ')
            title = re.search(r'title="([^"]*)"', rest)
            found.append(Block(page, token.map[0] + 2, language, title[1] if title else '', token.content))
    return found
