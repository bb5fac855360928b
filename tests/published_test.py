"""The paper's numbers, beside a run's own."""

import json
import re

import pytest
import rich.console

from experiments import published
from lit_jax import report
from lit_jax.report import Column

PAIR = ('resnet-110', 'resnet-20')
WIDE = ('resnext-110 (32x4d)', 'resnext-20 (32x4d)')
METHODS = ('lit', 'scratch', 'several_irs')


@pytest.mark.parametrize(
  ('pair', 'accuracies'),
  [
    (PAIR, {'lit': 0.9325, 'several_irs': 0.9042}),
    (WIDE, {'lit': 0.9472, 'several_irs': 0.9127}),
  ],
)
def test_of_both_families(pair, accuracies):
  assert published.accuracies('cifar10', *pair, METHODS) == accuracies


@pytest.mark.parametrize(
  ('dataset', 'teacher', 'student'),
  [
    ('cifar100', 'resnet-110', 'resnet-20'),
    ('cifar10', 'resnet-56', 'resnet-20'),
    ('cifar10', 'resnet-110', 'resnet-32'),
    ('cifar10', 'resnet-110', 'resnext-20'),
    ('cifar10', 'resnet-110', 'resnext-20 (32x4d)'),
    ('cifar10', 'mine', 'mine'),
    ('cifar10', '', ''),
  ],
)
def test_none_for_other_runs(dataset, teacher, student):
  assert published.accuracies(dataset, teacher, student, METHODS) == {}


def _row(method, model, **scores):
  return {
    'method': method, 'model': model, 'depth': 20, 'parameters': 127_000,
    'macs': 158_000_000, 'accuracy': 0.9315, 'epochs': 175,
    'train_seconds': 1500.0, 'latency_ms': {'1': 0.123, '128': 0.1234},
  } | scores  # fmt: skip


def _results(*rows):
  accuracy = Column('accuracy', 'Acc. %', 'percent')
  balanced = Column(
    'balanced',
    'Balanced %',
    'percent',
    optional=True,
    narrow='balanced',
    below=True,
  )
  own = (accuracy, published.COLUMN, balanced)
  return {
    'dataset': 'cifar10',
    'seed': 0,
    'rows': list(rows),
    'columns': [column.to_json() for column in own],
  }


def test_the_page_sets_them_apart(tmp_path):
  found = published.accuracies('cifar10', *PAIR, METHODS)
  results = _results(
    _row('teacher', PAIR[0]), _row('lit', PAIR[1], published=found['lit'])
  )
  results['notes'] = [published.NOTE]
  (tmp_path / 'results.json').write_text(json.dumps(results))
  page = report.write_html(tmp_path).read_text()
  cells = re.findall(r'<td class="quoted">([^<]*)', page)
  assert cells == ['-', '93.25']
  assert re.search(r'>93.15</td>\s*<td class="quoted">93.25<', page)
  assert '<th scope="col" class="quoted">Published %</th>' in page
  assert 'Koratana' in page


def test_no_column_where_there_are_none():
  text = report.markdown(_results(_row('teacher', 'a'), _row('lit', 'b')))
  assert 'Published' not in text


def test_the_terminal_table_stays_within_80_columns():
  rows = [_row(method, PAIR[1], balanced=0.9) for method in METHODS]
  rows[0]['published'] = 0.9325
  console = rich.console.Console(width=200, color_system=None)
  with console.capture() as capture:
    console.print(report.table(_results(*rows)))
  lines = capture.get().splitlines()
  assert max(map(len, lines)) <= 80
  start = next(i for i, line in enumerate(lines) if line.startswith('lit'))
  assert '93.15' in lines[start]
  assert '93.25' in lines[start + 1]
  assert '90.00' in lines[start + 2]
  headings = [line.split() for line in lines[:3]]
  assert 'paper' in headings[1] and 'balanced' in headings[2]
