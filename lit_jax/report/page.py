"""The results as one self-contained HTML page."""

import base64
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2

from lit_jax import files
from lit_jax.errors import UserError
from lit_jax.records import METRICS, Record, read
from lit_jax.report import columns, depth, headline, rows, scores
from lit_jax.report.columns import LOSS, TEACHER
from lit_jax.report.depth import Depth
from lit_jax.report.rows import NUMBER, Results, Row
from lit_jax.report.scores import Score

if TYPE_CHECKING:
  from lit_jax.report import plots
  from lit_jax.report.disagreements import Disagreements

PAGE = 'report.html'
_RESULTS = 'results.json'
_OBJECTIVE = 'training objective'


def write_html(workdir: str | os.PathLike[str]) -> pathlib.Path:
  """Writes `report.html`, which loads nothing from anywhere else.

  Sheets of images are written beside it, too, as TITLE.png.

  Args:
    workdir: folder with `results.json` and, for the curves, `metrics.jsonl`,
      and for sheets of images their files.

  Returns:
    The path of the page.

  Raises:
    UserError: `results.json` cannot be read or is malformed, or the page
      cannot be written.
  """
  workdir = pathlib.Path(workdir)
  source, path = workdir / _RESULTS, workdir / PAGE
  results = read_results(workdir)
  records = _read_metrics(workdir / METRICS)
  # Here, as the plots below, for Pillow takes a while to load.
  from lit_jax.report import sheets

  drawn = sheets.draw(workdir, rows.of(results, str(source)))
  page = _html(results, records, workdir, drawn)
  try:
    for title, image in drawn.items():
      files.write_bytes(workdir / f'{title}.png', image)
    # JSON can hold half of a surrogate pair, and UTF-8 cannot.
    files.write_text(path, page.encode('utf-8', 'replace').decode('utf-8'))
  except OSError as error:
    raise UserError(f'{path}: cannot write: {error.strerror}') from error
  return path


def _html(
  results: Results,
  records: Sequence[Record],
  workdir: pathlib.Path,
  drawn: Mapping[str, bytes],
) -> str:
  where = str(workdir / _RESULTS)
  shown = columns.of(results, where)
  found = rows.of(results, where)
  score = scores.of(results, where)
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters['png'] = lambda content: _image(content, 'png')
  return environment.get_template('report.html.j2').render(
    results=results,
    headline=headline.of(results, where),
    trade_off=_trade_off(found, score),
    columns=shown,
    cells=columns.cells(results, shown),
    explained=' '.join(dict.fromkeys(c.note for c in shown if c.note)),
    sheets=drawn,
    **_curves(results, records, score),
    blocks=_blocks(found, score),
    block_headings=depth.HEADINGS,
    confusions=_confusions(found),
    class_names=_class_names(results, found),
    disagreements=_disagreements(workdir, results, found),
  )


# The figures.


class _TradeOff(NamedTuple):
  """Attributes: a figure; its title; where in it the best rows are."""

  image: str
  title: str
  note: str


def _trade_off(found: Sequence[Row], score: Score | None) -> _TradeOff | None:
  """The score of the rows against their time; None of fewer than two."""
  if score is None:
    return None
  for batch in headline.BATCHES:
    known = [
      (row.method, time, score.scale * own)
      for row in found
      if (own := score.of(row)) is not None
      and (time := scores.milliseconds(row, batch)) is not None
    ]
    if len(known) > 1:
      # Here, for matplotlib takes long to import; so in all that is below.
      from lit_jax.report import plots, scatter

      points = [scatter.Point(*own) for own in known]
      looks = plots.looks(row.method for row in found)
      svg = scatter.draw(points, batch, score.axis, looks)
      corner = {True: 'The upper left', False: 'The lower left', None: ''}
      best = corner[score.largest]
      note = f'{best} is best: fast and good.' if best else 'Left is fast.'
      return _TradeOff(_image(svg), f'{score.name} against time', note)
  return None


def _curves(
  results: Results, records: Sequence[Record], score: Score | None
) -> dict[str, Any]:
  """All methods' selected metric in one image, and each method's images."""
  from lit_jax.report import plots

  selected = []
  if score is not None:
    key = score.column.key
    selected = [plots.Metric(key, score.name, score.axis, score.scale)]
  objective = plots.Metric(
    LOSS, _OBJECTIVE, _OBJECTIVE, logarithmic=True, splits=plots.TRAIN
  )
  name = f'held-out {results.get("loss_name", LOSS)}'
  held_out = plots.Metric(LOSS, name, name, splits=plots.HELD_OUT)
  drawers = [
    *((metric, plots.curve) for metric in selected),
    (objective, plots.panels),
    (held_out, plots.curve),
  ]
  methods = [row['method'] for row in results['rows']]
  tracks = _tracks(records, methods, [LOSS, *(m.key for m in selected)])
  looks = plots.looks([*methods, *tracks])
  overviews = [plots.overview(tracks, metric, looks) for metric in selected]
  return {
    'overviews': {
      metric.name: _image(svg)
      for metric, svg in zip(selected, overviews, strict=True)
      if svg
    },
    'curves': {
      method: {
        metric.name: _image(svg)
        for metric, draw in drawers
        if (svg := draw(phases, metric))
      }
      for method, phases in tracks.items()
    },
  }


class _Blocks(NamedTuple):
  """The blocks of one row.

  Attributes:
    name: of the row.
    errors: the figure of the IR errors, or ''.
    lost: the figure of what each block loses, or ''.
    depth: the same in numbers, or None.
  """

  name: str
  errors: str
  lost: str
  depth: Depth | None


def _blocks(found: Sequence[Row], score: Score | None) -> list[_Blocks]:
  """Of each row that has IR errors, or what its blocks lose."""
  from lit_jax.report import plots

  errors = [row.value('ir_error') or {} for row in found]
  depths = [depth.of(row, score) for row in found]
  ir_limits = plots.ir_limits(errors)
  limits = depth.limits([own for own in depths if own])
  axis = depth.axis(score)
  return [
    _Blocks(
      _name(row) + _against(row),
      _image(plots.ir_bars(blocks, ir_limits)) if blocks else '',
      _image(plots.lost_bars(own.lost, axis, limits)) if own else '',
      own,
    )
    for row, blocks, own in zip(found, errors, depths, strict=True)
    if blocks or own
  ]


def _name(row: Row) -> str:
  return f'{row.method} ({row.model})'


def _against(row: Row) -> str:
  """Whose IRs a row is compared with, where that is not the teacher."""
  teacher = row.value('teacher', TEACHER)
  return '' if teacher == TEACHER else f', against {teacher}'


def _image(content: bytes, kind: str = 'svg+xml') -> str:
  """A data URI: inside an <img>, names in an SVG cannot clash."""
  return f'data:image/{kind};base64,' + base64.b64encode(content).decode()


def _confusions(found: Sequence[Row]) -> dict[str, list[list[int]]]:
  return {
    _name(row): matrix for row in found if (matrix := row.value('confusion'))
  }


def _class_names(results: Results, found: Sequence[Row]) -> list[str]:
  """Those of the data set, or numbers."""
  count = max(map(len, _confusions(found).values()), default=0)
  names = [str(name) for name in results.get('classes', ())]
  return names if len(names) == count else [str(i) for i in range(count)]


def _disagreements(
  workdir: pathlib.Path, results: Results, found: Sequence[Row]
) -> 'list[Disagreements]':
  # Here, for Pillow takes a while to load.
  from lit_jax.report import disagreements

  return disagreements.draw(workdir, found, results.get('classes', ()))


# Reading.


def read_results(workdir: pathlib.Path) -> Results:
  """What `results.json` holds; `write_html` checks it.

  Raises:
    UserError: it cannot be read, or is no JSON.
  """
  path = workdir / _RESULTS
  try:
    return files.read_json(path)
  except OSError as error:
    raise UserError(f'{path}: cannot read: {error.strerror}') from error
  except ValueError as error:
    raise UserError(f'{path}: not JSON: {error}') from error


def _read_metrics(path: pathlib.Path) -> list[Record]:
  """The records; none where the file is missing or cannot be read.

  A run that went on from a checkpoint repeats steps: the later record is the
  one that counts.
  """
  try:
    found = read(path).records
  except OSError:
    return []
  names = 'method', 'phase', 'split', 'step'
  return list({tuple(r[name] for name in names): r for r in found}.values())


def _tracks(
  records: Sequence[Record], methods: Sequence[str], metrics: Collection[str]
) -> 'dict[str, list[plots.Phase]]':
  """Joins each method's phases, methods ordered as in the table."""
  from lit_jax.report import plots

  found: dict[str, dict[str, list[Record]]] = {}
  for record in records:
    phases = found.setdefault(record['method'], {})
    phases.setdefault(record['phase'], []).append(record)
  order = [m for m in dict.fromkeys(methods) if m in found]
  order += [m for m in found if m not in order]
  tracks: dict[str, list[plots.Phase]] = {}
  for method in order:
    start = 0.0
    tracks[method] = []
    for name, own in found[method].items():
      epochs = max(record['epoch'] for record in own)
      phase = plots.Phase(name, start, epochs, _points(own, metrics))
      tracks[method].append(phase)
      start += epochs
  return tracks


def _points(
  records: Sequence[Record], metrics: Collection[str]
) -> dict[str, dict[str, list[tuple[float, float]]]]:
  """Pairs of epoch and value, by split and then by metric."""
  points: dict[str, dict[str, list[tuple[float, float]]]] = {}
  for record in sorted(records, key=lambda record: record['epoch']):
    split = points.setdefault(record['split'], {})
    for metric in metrics:
      if rows.is_a(record.get(metric), NUMBER):
        pair = (record['epoch'], record[metric])
        split.setdefault(metric, []).append(pair)
  return points
