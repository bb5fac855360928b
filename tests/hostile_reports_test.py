"""Records and results, damaged or made up: right, or one line."""

import copy
import html.parser
import io
import json
import pathlib
import tempfile

import rich.console
from cases import JSON, cases, files, outcome
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from lit_jax import records, report
from lit_jax.report.table import blocks

# Records.

RECORD = {
  'method': 'lit', 'phase': 'lit', 'split': 'train', 'step': 4, 'epoch': 0.5,
  'loss': 1.25, 'train_seconds': 2.0,
}  # fmt: skip
RECORDS = st.builds(
  lambda step, changes: RECORD | {'step': step} | changes,
  st.integers(0, 99),
  st.dictionaries(st.sampled_from([*RECORD, 'accuracy']), JSON, max_size=1),
)
LINES = st.one_of(
  RECORDS.map(lambda own: json.dumps(own).encode()),
  RECORDS.map(lambda own: json.dumps(own)[: len(str(own)) // 2].encode()),
  JSON.map(lambda own: json.dumps(own).encode()),
  st.binary(max_size=20),
  st.sampled_from([
    b'', b' ', b'\r', b'[' * 200_000, b'\xef\xbb\xbf{}', b'9' * 5000,
    b'{"a":' * 100_000, b'{"step": 1e999}', b'Infinity',
  ]),
)  # fmt: skip
PLAIN = dict.fromkeys(('method', 'phase', 'split'), str)
PLAIN |= dict.fromkeys(('step', 'epoch', 'train_seconds'), (int, float))


def _is_plain(own):
  """Whether a record is beyond doubt one."""
  return isinstance(own, dict) and all(
    isinstance(own.get(key), kind)
    and not isinstance(own[key], bool)
    and (kind is str or abs(own[key]) < 1e300)
    for key, kind in PLAIN.items()
  )


@cases(0.2)
@example([json.dumps(RECORD | {'epoch': 10**320}).encode()], True)
@given(st.lists(LINES, max_size=8), st.booleans())
def test_metrics(lines, ended):
  with tempfile.TemporaryDirectory() as name:
    path = pathlib.Path(name) / records.METRICS
    content = b'\n'.join(lines) + b'\n' * ended
    path.write_bytes(content)
    found = outcome(lambda: records.read(path))
  said = []
  for line in content.split(b'\n'):
    try:
      said.append(json.loads(line))
    except (ValueError, RecursionError):
      continue
  # Nothing is invented, and nothing that is right is left out.
  texts = [json.dumps(own) for own in said]
  left = iter(texts)
  assert all(json.dumps(own) in left for own in found.records)
  kept = [json.dumps(own) for own in found.records]
  assert [t for t, own in zip(texts, said, strict=True) if _is_plain(own)] == [
    t for t, own in zip(kept, found.records, strict=True) if _is_plain(own)
  ]
  assert 0 <= found.damaged <= len(lines)


# Reports.

ROW = {
  'method': 'lit', 'model': 'resnet-8', 'depth': 8, 'parameters': 75_000,
  'macs': 9_000_000, 'accuracy': 0.5, 'epochs': 2, 'train_seconds': 3.5,
  'latency_ms': {'1': 1.5, '128': 20.0},
  'confusion': [[1, 2], [3, 4]],
  'ir_error': {'blocks_0': {'teacher_input': 0.1, 'own_input': 0.2}},
  'stitch': {'blocks_0': {'score': 0.4, 'lost': 0.1, 'input_shift': 0.2}},
  'sheets': {
    'sheet': {
      'file': 'a.png', 'truth': 'a.png', 'columns': ['x', 'y'], 'rows': 2,
    },
  },
  'disagreements': [
    {
      'index': 3, 'label': 0, 'teacher': 0, 'student': 1, 'text': 'good',
      'teacher_probability': 0.9, 'student_probability': 0.5,
    },
    {'index': 5, 'label': 1, 'teacher': 2, 'student': 1},
  ],
  'disagreement_counts': {
    'examples': 9, 'all': 2, 'teacher_right': 1, 'student_right': 1,
  },
  'disagreement_images': {'file': 'a.png', 'columns': ['image'], 'rows': 2},
}  # fmt: skip
RESULTS = {
  'dataset': 'noise', 'seed': 0, 'rows': [ROW | {'method': 'teacher'}, ROW],
  'columns': [
    {'key': 'accuracy', 'heading': 'Acc.', 'format': 'percent', 'note': 'n'},
  ],
  'selects': 'accuracy', 'selects_largest': True, 'loss_name': 'loss',
  'classes': ['a', 'b'], 'notes': ['so'],
  'versions': {'jax': '1'}, 'device': 'cpu', 'command': 'python -m x',
}  # fmt: skip
EVIL = (
  '<script>alert(1)</script>', '"><script>', "' onload='x", '</title><script>',
  '<img src=x onerror=x>', '{{ 7 * 7 }}', '{% for x in y %}', '&lt;', '--><b>',
  '\u202e\u0007\x1b[2J', '\ud800', '$x^{', '../../beside', '/beside', '\0', '_',
)  # fmt: skip
VALUES = st.sampled_from(EVIL) | JSON


def _places(value, path=()):
  """Of everything in a value of JSON, and of its keys."""
  found = [path] if path else []
  inner = value.items() if isinstance(value, dict) else ()
  inner = enumerate(value) if isinstance(value, list) else inner
  for key, own in inner:
    found += _places(own, (*path, key))
  return found


class _Tags(html.parser.HTMLParser):
  """What a page is made of."""

  def __init__(self, page):
    super().__init__()
    self.tags, self.names = set(), set()
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.names |= {name for name, _ in attrs}
    for name, value in attrs:
      assert name != 'src' or value.startswith('data:image/'), value


TAGS = set(
  'html head meta title style body h1 h2 h3 dl dt dd code div table thead tr '
  'th tbody td p img span figure figcaption'.split()
)
NAMES = set(
  'lang charset name content http-equiv class tabindex role aria-label scope '
  'src alt'.split()
)


def _changed(changes):
  results = copy.deepcopy(RESULTS)
  for path, value, is_key in changes:
    sheet = results
    try:
      for key in path[:-1]:
        sheet = sheet[key]
      if is_key and isinstance(sheet, dict):
        sheet[str(value)] = sheet.pop(path[-1])
      else:
        sheet[path[-1]] = value
    except (KeyError, TypeError, IndexError, AttributeError):
      continue
  return results


CHANGES = st.lists(
  st.tuples(st.sampled_from(_places(RESULTS)), VALUES, st.booleans()),
  max_size=4,
)
EXAMPLE = 'rows', 1, 'disagreements', 0
SHEET, BLOCK, STITCH = (
  ('rows', 0, 'sheets', 'sheet'),
  ('rows', 1, 'ir_error', 'blocks_0'),
  ('rows', 1, 'stitch', 'blocks_0'),
)


def reported(results, told):
  """Checks a page; without records there are few figures, which take long."""
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    workdir = root / 'a' / 'run'
    workdir.mkdir(parents=True)
    (root / 'beside').write_text('mine')
    Image.new('RGB', (4, 4)).save(workdir / 'a.png')
    (workdir / 'results.json').write_text(json.dumps(results))
    lines = ''.join(map(records.line, told))
    (workdir / 'metrics.jsonl').write_text(lines)
    before = files(root)
    path = outcome(lambda: report.write_html(workdir))
    after = files(root)
    # Beside the page nothing is written but the sheets.
    assert {p: after[p] for p in before} == before
    new = {p for p in after if p not in before}
    assert all(p.parent == pathlib.Path('a/run') for p in new), new
    assert {p.suffix for p in new} <= {'.html', '.png'}
    if path is not None:
      tags = _Tags(path.read_text(encoding='utf-8'))
      assert tags.tags <= TAGS and tags.names <= NAMES


@cases(0.2)
@example([(('rows', 0, 'sheets'), None, False)])
@example([(SHEET, '../../beside', True)])
@example([(SHEET, '\ud800', True)])
@example([((*SHEET, 'truth'), 5, False)])
@example([((*SHEET, 'rows'), 10**9, False)])
@example([(('rows', 0, 'confusion'), [1, 2], False)])
@example([((*EXAMPLE, 'label'), -1, False)])
@example([((*EXAMPLE, 'label'), 1.5, False)])
@example([((*EXAMPLE, 'text'), '\x00<b>', False)])
@example([((*EXAMPLE, 'teacher_probability'), float('nan'), False)])
@example([(('rows', 1, 'disagreements', 0), 5, False)])
@example([(('rows', 1, 'disagreements'), {}, False)])
@example([(('rows', 1, 'disagreement_counts'), {'all': 1}, False)])
@example([(('rows', 1, 'disagreement_counts', 'all'), -(10**200), False)])
@example([(('rows', 1, 'disagreement_images', 'file'), '../beside', False)])
@example([(('rows', 1, 'disagreement_images', 'rows'), 1, False)])
@example([(('rows', 1, 'disagreement_images', 'rows'), 0, False)])
@example([(('rows', 1, 'accuracy'), float('nan'), False)])
@example([(('selects_largest',), 'yes', False)])
@example([(('loss_name',), '<b>', False)])
@example([(('rows', 0, 'stitch'), [1, 2], False)])
@example([((*STITCH, 'lost'), None, False)])
@example([(STITCH, '\x1b[2J', True), (('rows', 1, 'method'), '[b]', False)])
@example([(('columns', 0, 'format'), 'text', False)])
@example([(('notes', 0), 1, False)])
@example([(('rows', 0, 'parameters'), 10**320, False)])
@example([(('rows', 0, 'latency_ms', '1'), 10**320, False)])
@example([(('rows', 1, 'model'), '\x1b[2J', False)])
@given(CHANGES)
def test_pages(changes):
  results = _changed(changes)
  # Figures take long; what is wrong with the numbers in them is told without.
  figures = {'ir_error', 'stitch', 'latency_ms'}
  figures -= {key for path, *_ in changes for key in path}
  rows = results.get('rows')
  for row in rows if isinstance(rows, list) else ():
    if isinstance(row, dict):
      row |= {key: {} for key in figures & row.keys()}
  reported(results, [])
  table = outcome(lambda: report.table(results))
  outcome(lambda: report.markdown(results))
  if table is not None:
    text = io.StringIO()
    console = rich.console.Console(file=text, width=80)
    console.print(table)
    of_blocks, sentences = outcome(lambda: blocks(results)) or (None, [])
    console.print(of_blocks or '')
    said = text.getvalue() + ''.join(sentences)
    assert said.replace('\n', '').isprintable()


@cases(0.03)
@example([((*BLOCK, 'own_input'), 1e308, False)], [('loss', 1e308)])
@example([((*BLOCK, 'own_input'), 1e-320, False)], [('epoch', 1e308)])
@example([], [('loss', 10**320), ('method', '\ud800')])
@example([], [('phase', 'x' * 300), ('method', 'y' * 300)])
@given(
  CHANGES,
  st.lists(st.tuples(st.sampled_from(list(RECORD)), VALUES), max_size=3),
)
def test_figures(changes, told):
  lines = [RECORD, RECORD | {'split': 'test', 'accuracy': 0.5}]
  reported(
    _changed(changes), lines + [RECORD | {key: value} for key, value in told]
  )
