# SPDX-License-Identifier: Apache-2.0
"""Tables, JSON and pictures of a measurement. Needs the standard library; pictures need matplotlib."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from .files import write_atomically

# The Okabe-Ito colours, as in tools/plot_logs.py.
BLUE, ORANGE, GREY = '#0072B2', '#D55E00', '#999999'
COLOURS = {'pass': BLUE, 'miss': ORANGE}
SERIES = (BLUE, ORANGE, GREY)


class TableError(ValueError):
    """A table on the disk is another than the one to be written; the message is one line."""


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """A markdown table whose columns are the keys of the first row."""
    if not rows:
        return ''
    cells = [[str(key) for key in rows[0]], *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ['| ' + ' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + ' |' for row in cells]
    lines.insert(1, '|' + '|'.join('-' * (w + 2) for w in widths) + '|')
    return '\n'.join(lines)


def _text(value: object) -> str:
    """Three digits of a number, but every digit in front of the point; '-' for None."""
    if value is None:
        return '-'
    if isinstance(value, float):
        if not value or not math.isfinite(value):
            return f'{value:g}'
        return f'{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}'
    return str(value)


def document(title: str, facts: Mapping[str, object], tables: Mapping[str, Sequence[Mapping]]) -> str:
    """Markdown: a title, a list of facts, and tables under headings; empty ones are left out."""
    parts = [f'# {title}', '\n'.join(f'- {k}: {v}' for k, v in facts.items())]
    for heading, rows in tables.items():
        if rows:
            parts += [f'## {heading}', table(rows)]
    return '\n\n'.join(parts) + '\n'


def write(out: Path, name: str, content: dict, text: str) -> list[Path]:
    """Write NAME.json and NAME.md into ``out``, whole or not at all, and say where they are."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f'{name}.json', out / f'{name}.md']
    write_atomically(paths[0], json.dumps(content, indent=1) + '\n')
    write_atomically(paths[1], text)
    return paths


def append_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Add rows to a table that keeps those of earlier runs; all have the same columns.

    Raises:
        TableError: the file has other columns.
    """
    columns = list(rows[0])
    fresh = not path.exists()
    if not fresh:
        with path.open(newline='') as file:
            found = next(csv.reader(file), [])
        if found != columns:
            raise TableError(f'{path} must have the columns {", ".join(columns)}, got {", ".join(found)}')
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a', newline='') as file:
        writer = csv.DictWriter(file, columns, lineterminator='\n')
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def draw_bars(verdicts: Sequence[Mapping], title: str, path: Path) -> Path | None:
    """Each measured ratio relative to its bar: what ends left of the line passes.

    Returns:
        The path, or None where matplotlib is not installed or there is nothing to draw.
    """
    pyplot = _pyplot()
    if pyplot is None or not verdicts:
        return None
    labels, lengths, colours, notes = [], [], [], []
    for row in verdicts:
        bar = float(row['bar'].split()[1])
        lengths.append(bar / row['measured'] if row['bar'][0] == '≥' else row['measured'] / bar)
        labels.append(f'{row["comparison"]}, {row["size"]}')
        colours.append(COLOURS.get(row['verdict'], GREY))
        noisy = '' if row['verdict'] in COLOURS else ', not judged'
        notes.append(f'{_text(row["measured"])} (bar {row["bar"]}{noisy})')
    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.24 * len(labels)), layout='constrained')
    axes.barh(labels, lengths, color=colours, height=0.7)
    for y, (length, note) in enumerate(zip(lengths, notes, strict=True)):
        place = max(length, 1)  # right of the line, so that it crosses no number
        axes.annotate(note, (place, y), xytext=(4, 0), textcoords='offset points', va='center', size=7)
    axes.axvline(1, color='black', lw=1)
    axes.set(
        xlim=(0, max(1.5, 1.35 * max(lengths))), xlabel='measured relative to the bar (shorter is better)'
    )
    return _finish(figure, axes, title, path)


#: What a row of panels shows, and how its columns end.
_PANELS = (('ms, median', '_ms'), ('MB at the peak', '_peak_MB'))


def draw_times(rows: Sequence[Mapping], title: str, path: Path) -> Path | None:
    """Times and peak memory of ``forward`` and ``step`` by ``upsampler``: a row of panels each, by ``size``.

    A row whose numbers are all missing (memory where nothing measures it) is left out.
    """
    pyplot = _pyplot()
    if pyplot is None or not rows:
        return None
    sizes = list(dict.fromkeys(row['size'] for row in rows))
    names = list(dict.fromkeys(row['upsampler'] for row in rows))
    kinds = [panel for panel in _PANELS if any(row.get(f'step{panel[1]}') for row in rows)]
    figure, grid = pyplot.subplots(
        len(kinds),
        len(sizes),
        figsize=(4.8 * len(sizes), 0.6 + len(kinds) * (0.8 + 0.36 * len(names))),
        squeeze=False,
        layout='constrained',
    )
    for panels, (quantity, column) in zip(grid, kinds, strict=True):
        for axes, size in zip(panels, sizes, strict=True):
            series = {'forward': f'forward{column}', 'forward + backward': f'step{column}'}
            _pairs(axes, {row['upsampler']: row for row in rows if row['size'] == size}, names, series)
            axes.set_xlabel(quantity)
            _style(axes, size)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=2, frameon=False, fontsize=8)
    figure.suptitle(title, size=10)
    return _save(figure, path)


def draw_runtimes(rows: Sequence[Mapping], title: str, path: Path) -> Path | None:
    """Medians of each ``runtime``, a bar for each number of ``threads``: a panel for each ``size``."""
    pyplot = _pyplot()
    if pyplot is None or not rows:
        return None
    sizes, names, counts = (
        list(dict.fromkeys(r[key] for r in rows)) for key in ('size', 'runtime', 'threads')
    )
    series = {f'{count} thread{"s" * (count > 1)}': count for count in counts}
    figure, panels = pyplot.subplots(
        1, len(sizes), figsize=(4.8 * len(sizes), 1.4 + 0.5 * len(names)), squeeze=False, layout='constrained'
    )
    for axes, size in zip(panels[0], sizes, strict=True):
        values: dict = {name: {} for name in names}
        for row in rows:
            if row['size'] == size:
                values[row['runtime']][row['threads']] = row['median_ms']
        _pairs(axes, {name: value for name, value in values.items() if value}, names, series)
        axes.set_xlabel('ms, median')
        _style(axes, size)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=len(series), frameon=False, fontsize=8)
    figure.suptitle(title, size=10)
    return _save(figure, path)


def _pairs(axes, rows: Mapping[str, Mapping], names: Sequence[str], series: Mapping[str, object]) -> None:
    """For each name of a row a bar for each of the series, which name a column by their label."""
    shown = [name for name in names if name in rows]
    height = 0.8 / len(series)
    for at, (label, column) in enumerate(series.items()):
        places = [i + (at + 0.5) * height - 0.4 for i in range(len(shown))]
        values = [rows[name].get(column) or 0 for name in shown]
        axes.barh(places, values, height=0.95 * height, color=SERIES[at % len(SERIES)], label=label)
        for x, y in zip(values, places, strict=True):
            axes.annotate(_text(x), (x, y), xytext=(3, 0), textcoords='offset points', va='center', size=7)
    axes.set_yticks(range(len(shown)), shown)
    longest = max((rows[name].get(column) or 0 for name in shown for column in series.values()), default=0)
    axes.set_xlim(0, 1.15 * longest or 1)
    axes.set_ylim(-0.7, len(shown) - 0.3)


def _pyplot():
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    return plt


def _style(axes, title: str) -> None:
    axes.invert_yaxis()
    axes.set_title(title, size=10)
    axes.tick_params(labelsize=8)
    axes.grid(axis='x', alpha=0.3, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)


def _finish(figure, axes, title: str, path: Path) -> Path:
    _style(axes, title)
    return _save(figure, path)


def _save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    _pyplot().close(figure)
    return path
