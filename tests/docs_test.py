"""The documents' picture, tables and rooms are those of the code."""

import importlib.util
import pathlib
import re

import matplotlib as mpl
import pytest

ROOT = pathlib.Path(__file__).parents[1]


def _script(name):
  spec = importlib.util.spec_from_file_location(name, ROOT / f'docs/{name}.py')
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _labels(svg):
  return re.findall(r'<text [^>]*>([^<]*)</text>', svg)


# The picture.


def test_the_committed_picture_is_what_the_script_draws(tmp_path):
  path, again = tmp_path / 'blocks.svg', tmp_path / 'again.svg'
  draw = _script('draw_blocks').draw
  draw(path)
  draw(again)
  assert path.read_bytes() == again.read_bytes()
  drawn, kept = path.read_text(), (ROOT / 'docs/blocks.svg').read_text()
  assert _labels(drawn) == _labels(kept)
  # Other versions may write the same shapes in other bytes.
  if f'Matplotlib v{mpl.__version__},' in kept:
    assert drawn == kept


def test_the_picture_names_every_part():
  labels = _labels((ROOT / 'docs/blocks.svg').read_text())
  for words in (
    'Teacher', 'Student', 'T₀', 'T₁', 'T₂', 'T₃', 'ℓ', 'KD', 'stem', 'head',
    'block 1', 'block 3', 'copied', 'logits',
  ):  # fmt: skip
    assert words in labels


# The tables.


@pytest.fixture
def results():
  """Of a teacher and a student, as `results.json` has them."""

  def row(method, depth, ms):
    return {
      'method': method, 'model': 'resnet', 'depth': depth, 'parameters': 75002,
      'macs': 9, 'epochs': 1, 'train_seconds': 1.0, 'accuracy': 0.8125,
      'balanced_accuracy': 0.8125, 'latency_ms': {'1': 1.0, '128': ms},
    }  # fmt: skip

  names = ('accuracy', 'Acc. %'), ('balanced_accuracy', 'Balanced %')
  columns = [
    {'key': key, 'heading': heading, 'format': 'percent'}
    for key, heading in names
  ]
  columns[1]['unless_equal'] = 'accuracy'
  against = {'heading': 'vs teacher', 'against': 'difference'}
  return {
    'dataset': 'mine',
    'seed': 0,
    'columns': [*columns, columns[0] | against],
    'rows': [row('teacher', 20, 4.0), row('lit', 8, 2.0)],
  }


def test_the_demos_table_has_five_columns(results):
  heading, rule, teacher, lit = _script('demo_table').table(results).split('\n')
  wanted = '| Method | Depth | Params | Accuracy % | Speed-up at batch 128 |'
  assert heading == wanted
  assert rule == '| --- | ---: | ---: | ---: | ---: |'
  assert teacher == '| teacher | 20 | 75 k | 81.25 | 1.00x |'
  assert lit == '| lit | 8 | 75 k | 81.25 | 2.00x |'
  # It is the table that the README has.
  readme = (ROOT / 'README.md').read_text()
  assert f'<!-- demo table -->\n{heading}\n{rule}\n| teacher |' in readme


def test_a_balanced_accuracy_is_a_sixth(results):
  results['rows'][1]['balanced_accuracy'] = 0.5
  heading, _, _, lit = _script('demo_table').table(results).split('\n')
  assert '| Accuracy % | Balanced % | Speed-up' in heading
  assert '| 81.25 | 50.00 | 2.00x |' in lit


# The rooms.


def _rooms():
  """The rooms of CONTRIBUTING.md, from the top down."""
  text = (ROOT / 'CONTRIBUTING.md').read_text()
  table = text.partition('| room | role |')[2].partition('\n\n')[0]
  return [
    re.findall(r'`(\w+)(?:/|\.py)`', line.split('|')[1])
    for line in table.splitlines()[2:]
  ]


def test_every_room_is_told():
  told = {name for rooms in _rooms() for name in rooms}
  package = ROOT / 'lit_jax'
  there = {path.parent.name for path in package.glob('*/__init__.py')}
  there |= {path.stem for path in package.glob('*.py')} - {'__init__'}
  assert told == there | {'experiments'}


def test_imports_point_down():
  rank = {name: i for i, rooms in enumerate(_rooms()) for name in rooms}
  for path in (ROOT / 'lit_jax').rglob('*.py'):
    room = path.relative_to(ROOT / 'lit_jax').parts[0].removesuffix('.py')
    if room == '__init__':
      continue
    text = path.read_text()
    used = re.findall(r'^ *from lit_jax\.(\w+)', text, re.MULTILINE)
    for names in re.findall(r'^ *from lit_jax import (.*)', text, re.MULTILINE):
      used += [name.split()[0] for name in names.split(',')]
    for name in used:
      assert room == name or rank[room] < rank[name], f'{path} imports {name}'


DOCUMENTS = sorted(
  path
  for folder in ('.', 'docs', 'docs/paper', 'experiments', 'students')
  for path in (ROOT / folder).glob('*.md')
)
_FOLDERS = r'lit_jax|experiments|tests|docs|students|\.ci'


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(document):
  named = re.findall(
    rf'(?<![\w/.-])((?:{_FOLDERS})/[\w/.*-]*\w)', document.read_text()
  )
  # NAME is that of what is to be added.
  missing = {
    path for path in named if 'NAME' not in path and not any(ROOT.glob(path))
  }
  assert not missing
