"""The results as one self-contained HTML page."""

import base64
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2

from lit_jax import files
from lit_jax.errors import UserError
from lit_jax.records import METRICS, Record, read
from lit_jax.report import columns, rows
from lit_jax.report.columns import FORMATS, TEACHER
from lit_jax.report.rows import NUMBER, Results, Row

if TYPE_CHECKING:
  from lit_jax.report import plots

PAGE = 'report.html'
_RESULTS = 'results.json'
_LOSS = 'loss'


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
  page = _html(results, records, drawn, str(source))
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
  drawn: Mapping[str, bytes],
  where: str,
) -> str:
  shown = columns.of(results, where)
  found = rows.of(results, where)
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template('report.html.j2').render(
    results=results,
    columns=shown,
    cells=columns.cells(results, shown),
    explained=' '.join(dict.fromkeys(c.note for c in shown if c.note)),
    confusions=_confusions(found),
    class_names=_class_names(results, found),
    bars=_bars(found),
    sheets={title: _image(png, 'png') for title, png in drawn.items()},
    **_curves(results, records, where),
  )


# The figures.


def _curves(
  results: Results, records: Sequence[Record], where: str
) -> dict[str, Any]:
  """All methods' selected metric in one image, and each method's images."""
  # Here, for matplotlib takes long to import, and a run's start needs no plot.
  from lit_jax.report import plots

  selected = _selected(results, where)
  metrics = [*selected, plots.Metric(_LOSS, _LOSS, _LOSS, logarithmic=True)]
  methods = [row['method'] for row in results['rows']]
  tracks = _tracks(records, methods, [metric.key for metric in metrics])
  overviews = [plots.overview(tracks, metric) for metric in selected]
  return {
    'overviews': {
      metric.name: _image(svg)
      for metric, svg in zip(selected, overviews, strict=True)
      if svg
    },
    'curves': {
      method: {
        metric.name: _image(svg)
        for metric in metrics
        if (svg := plots.curve(phases, metric))
      }
      for method, phases in tracks.items()
    },
  }


def _selected(results: Results, where: str) -> 'list[plots.Metric]':
  """The metric that `selects` names, as its column has it; none or one.

  Raises:
    UserError: there is no such column.
  """
  from lit_jax.report import plots

  key = results.get('selects', _LOSS)
  if key == _LOSS:
    return []
  own = columns.of_task(results, where)
  for column in own:
    if column.key == key and not column.against:
      name = column.label or column.heading
      scale = FORMATS[column.format].scale
      axis = f'{name}, %' if column.label and scale == 100 else name
      return [plots.Metric(key, name, axis, scale)]
  known = ', '.join(dict.fromkeys([*(c.key for c in own), _LOSS]))
  raise UserError(f'{where}: selects is {key!r}; the columns have {known}')


def _bars(found: Sequence[Row]) -> dict[str, str]:
  """The IR errors of each row that has them, as images."""
  from lit_jax.report import plots

  errors = {
    f'{row.method} ({row.model}){_against(row)}': blocks
    for row in found
    if (blocks := row.value('ir_error'))
  }
  limits = plots.ir_limits(list(errors.values()))
  return {
    name: _image(plots.ir_bars(blocks, limits))
    for name, blocks in errors.items()
  }


def _against(row: Row) -> str:
  """Whose IRs a row is compared with, where that is not the teacher."""
  teacher = row.value('teacher', TEACHER)
  return '' if teacher == TEACHER else f', against {teacher}'


def _image(content: bytes, kind: str = 'svg+xml') -> str:
  """A data URI: inside an <img>, names in an SVG cannot clash."""
  return f'data:image/{kind};base64,' + base64.b64encode(content).decode()


def _confusions(found: Sequence[Row]) -> dict[str, list[list[int]]]:
  return {
    f'{row.method} ({row.model})': matrix
    for row in found
    if (matrix := row.value('confusion'))
  }


def _class_names(results: Results, found: Sequence[Row]) -> list[str]:
  """Those of the data set, or numbers."""
  count = max(map(len, _confusions(found).values()), default=0)
  names = [str(name) for name in results.get('classes', ())]
  return names if len(names) == count else [str(i) for i in range(count)]


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
