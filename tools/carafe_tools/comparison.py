# SPDX-License-Identifier: Apache-2.0
"""Table, file and picture of runs that differ in their variant (upsampler, config) and seed."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from .model_cost import Cost
from .report import table

COST_COLUMNS = ('params (M)', 'GMAC', 'GFLOP (2 per MAC)', 'ms / image')


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for the spread of a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def metric_keys(results: Sequence[dict]) -> list[str]:
    """The metrics of the first run that has any; a detector that finds nothing has none."""
    return next((list(result['metrics']) for result in results if result['metrics']), [])


def by_variant(results: Sequence[dict]) -> dict[str, list[dict]]:
    """The metrics of each variant's runs that have any, in the order in which the variants come."""
    found: dict[str, list[dict]] = {}
    for result in results:
        runs = found.setdefault(result['variant'], [])
        runs.extend([result['metrics']] if result['metrics'] else [])
    return found


def markdown(
    results: Sequence[dict], metrics: Sequence[str], facts: Mapping[str, str], costs: Mapping[str, Cost]
) -> str:
    """The table, one row per variant, under a list of facts about the runs."""
    rows = []
    for name, found in by_variant(results).items():
        row = {'variant': name, 'n': len(found)}
        for key in metrics:
            mean, spread = mean_and_spread([metric[key] for metric in found]) if found else (-1, None)
            text = f'{mean:.3f}' if spread is None else f'{mean:.3f} ± {spread:.3f}'
            # -1 is COCO's AP where there are no such objects, and ours where nothing was found.
            row[key.split('/')[-1]] = '-' if mean == -1 else text
        rows.append(row | _cost_cells(costs.get(name)))
    return '\n'.join([*(f'- {k}: {v}' for k, v in facts.items()), '', table(rows), ''])


def write_csv(
    path: Path, results: Sequence[dict], facts: Mapping[str, str], costs: Mapping[str, Cost]
) -> None:
    """Write every metric of every run, each variant's mean, spread and cost; facts as comments."""
    keys = metric_keys(results)
    with open(path, 'w', newline='') as file:
        file.writelines(f'# {k}: {v}\n' for k, v in facts.items())
        writer = csv.writer(file)
        writer.writerow(['variant', 'seed', *keys, 'parameters', 'macs', 'latency_ms'])
        for r in results:
            values = [r['metrics'].get(key, '') for key in keys]
            writer.writerow([r['variant'], r['seed'], *values, '', '', ''])
        for name, found in by_variant(results).items():
            if not found:
                continue
            columns = [mean_and_spread([metric[key] for metric in found]) for key in keys]
            cost = costs.get(name)
            spent = [cost.parameters, cost.macs, f'{cost.latency:.6g}'] if cost else [''] * 3
            writer.writerow([name, 'mean', *(f'{mean:.6g}' for mean, _ in columns), *spent])
            writer.writerow([name, 'std', *('' if s is None else f'{s:.6g}' for _, s in columns), '', '', ''])


def plot(path: Path, results: Sequence[dict], metric: str, costs: Mapping[str, Cost], title: str) -> None:
    """Draw a metric, in its own unit, against the latency, a point per variant, its spread as a bar."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 4.4), layout='constrained')
    for name, found in by_variant(results).items():
        if name not in costs or not found:
            continue
        mean, spread = mean_and_spread([metrics[metric] for metrics in found])
        point = costs[name].latency, mean
        ax.errorbar(*point, yerr=spread, fmt='o', ms=6, capsize=3, label=name)
    ax.set(title=title, xlabel='latency, ms per image', ylabel=metric.split('/')[-1])
    ax.margins(0.15)
    ax.grid(alpha=0.3, lw=0.6)
    ax.spines[['top', 'right']].set_visible(False)
    if any(name in costs for name in by_variant(results)):
        fig.legend(loc='outside lower center', ncols=2, frameon=False, fontsize=7)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def _cost_cells(cost: Cost | None) -> dict[str, str]:
    if cost is None:
        return dict.fromkeys(COST_COLUMNS, '-')
    macs = cost.macs / 1e9
    cells = f'{cost.parameters / 1e6:.3f}', f'{macs:.3f}', f'{2 * macs:.3f}', f'{cost.latency:.1f}'
    return dict(zip(COST_COLUMNS, cells, strict=True))
