"""The figures, each drawn to a stand-alone SVG."""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import (
  EngFormatter,
  FixedLocator,
  LogLocator,
  NullLocator,
  StrMethodFormatter,
)

from experiments.paper import statistics
from lit_jax.report import plots

_AXES = {
  'depth': 'layers',
  'nonzeros': 'weights that are not zero (logarithmic)',
  'α': 'α, the weight of the labels',
  'β': 'β, the weight of KD',
}
# Beside colour, so that a grey print can be read too.
_MARKS = 'os^DvPX*'
_WIDTH, _HEIGHT = 7.2, 4.0


def draw(found: dict[str, Any]) -> str:
  """A figure with error bars, or a table as one: SVG.

  Args:
    found: of `findings.findings`.
  """
  with mpl.rc_context(plots.STYLE):
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout='constrained')
    axes = figure.add_subplot()
    if found['axis']:
      _lines(axes, found)
    else:
      _bars(axes, found)
    axes.set_title(title(found), loc='left', fontsize=10, wrap=True)
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', metadata={'Date': None})
  return buffer.getvalue()


def title(found: dict[str, Any]) -> str:
  """What there is to see: how many of the claims held, and for whom."""
  verdicts = [claim['verdict'] for claim in found['claims']]
  if not verdicts:
    return found['title']
  held = verdicts.count(statistics.HELD)
  against = verdicts.count(statistics.CONTRADICTED)
  words = f'{held} of {len(verdicts)} claims held'
  if against:
    words += f', {against} contradicted'
  return f'{found["title"]}:\n{words}'


def _lines(axes, found):
  measure, axis = found['measure'], found['axis']
  series: dict[str, list[dict[str, Any]]] = {}
  for row in found['rows']:
    if row['x'] is not None:
      series.setdefault(row['series'] or row['label'], []).append(row)
  for i, (name, rows) in enumerate(series.items()):
    rows = sorted(rows, key=lambda row: row['x'])
    colour = plots.COLOURS[i % len(plots.COLOURS)]
    axes.errorbar(
      [row['x'] for row in rows],
      [measure['scale'] * row['mean'] for row in rows],
      yerr=[measure['scale'] * (row['std'] or 0.0) for row in rows],
      color=colour,
      marker=_MARKS[i % len(_MARKS)],
      linestyle='--' if i % 2 else '-',
      capsize=3,
      label=name,
    )
  if axis == 'nonzeros':
    axes.set_xscale('log')
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=' '))
    axes.xaxis.set_minor_locator(NullLocator())
  else:
    places = sorted({row['x'] for rows in series.values() for row in rows})
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_major_formatter(StrMethodFormatter('{x:g}'))
    axes.xaxis.set_minor_locator(NullLocator())
  axes.set_xlabel(_AXES[axis])
  axes.set_ylabel(f'{measure["title"]}, mean ± std')
  # Beside the lines, for they leave no corner free for certain.
  axes.legend(loc='upper left', bbox_to_anchor=(1.0, 1.0))


def _bars(axes, found):
  measure, rows = found['measure'], found['rows'][::-1]
  axes.errorbar(
    [measure['scale'] * row['mean'] for row in rows],
    range(len(rows)),
    xerr=[measure['scale'] * (row['std'] or 0.0) for row in rows],
    color=plots.COLOURS[1],
    marker='o',
    linestyle='none',
    capsize=3,
  )
  axes.set_yticks(range(len(rows)), [row['label'] for row in rows])
  axes.set_ylim(-0.5, len(rows) - 0.5)
  axes.set_xlabel(f'{measure["title"]}, mean ± std')
