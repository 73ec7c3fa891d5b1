# SPDX-License-Identifier: Apache-2.0
"""Griffe extension: what our docstrings take from Sphinx, in the words of mkdocstrings."""

import re

import griffe

ROLE = re.compile(r':(?:class|data|func|meth|mod):`~?([^`]+)`')
LITERAL = re.compile(r'::$', re.MULTILINE)  # an indented block is code in Markdown without it
EXAMPLE = re.compile(r'^Example:$', re.MULTILINE)
PRODUCT = re.compile(r'(?<=[\w)])\*(?=\w)(?=[^`\n]*(?:`[^`\n]*`[^`\n]*)*$)', re.MULTILINE)  # outside of code
SEVERAL = re.compile(r'^( +)(\*{0,2}[a-z]\w*(?:, \*{0,2}[a-z]\w*)+): (.*(?:\n\1 +.*)*)', re.MULTILINE)


def one_by_one(entry: re.Match) -> str:
    """Parameters that share a description, with it each."""
    return '\n'.join(f'{entry[1]}{name}: {entry[3]}' for name in entry[2].split(', '))


class Docstrings(griffe.Extension):
    """Turns roles into links, ``::`` into a colon, ``Example:`` into the section that griffe knows."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is None:
            return

        def link(role: re.Match) -> str:
            name = role[1].lstrip('.')
            first, _, rest = name.partition('.')
            try:
                path = obj.resolve(first) + (f'.{rest}' if rest else '')
            except griffe.NameResolutionError:
                path = name  # whole already, or another package's
            # A private object has no place on the site, and its name stays plain.
            return f'<autoref identifier="{path}" optional><code>{name}</code></autoref>'

        text = PRODUCT.sub(r'\*', SEVERAL.sub(one_by_one, obj.docstring.value))
        obj.docstring.value = EXAMPLE.sub('Examples:', LITERAL.sub(':', ROLE.sub(link, text)))
