# SPDX-License-Identifier: Apache-2.0
"""Griffe extension: what our docstrings take from Sphinx, in the words of mkdocstrings."""

import re

import griffe

ROLE = re.compile(r':(?:class|data|func|meth|mod):`~?([^`]+)`')
LITERAL = re.compile(r'::$', re.MULTILINE)  # an indented block is code in Markdown without it
EXAMPLE = re.compile(r'^Example:$', re.MULTILINE)


class Docstrings(griffe.Extension):
    """Turns roles into links, ``::`` into a colon and ``Example:`` into the section that griffe knows."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring is None:
            return

        def link(role: re.Match) -> str:
            name = role[1].lstrip('.')
            if name.startswith('carafe_plugin.'):
                path = name
            else:
                try:
                    path = obj.resolve(name.split('.')[0]) + name[len(name.split('.')[0]) :]
                except griffe.NameResolutionError:
                    path = name
            return f'<autoref identifier="{path}" optional><code>{name}</code></autoref>'

        text = ROLE.sub(link, obj.docstring.value)
        obj.docstring.value = EXAMPLE.sub('Examples:', LITERAL.sub(':', text))
