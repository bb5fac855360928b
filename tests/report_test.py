"""The results as tables and as a page."""

import base64
import copy
import json
import re

import pytest
import rich.console

from lit_jax.errors import UserError
from lit_jax.report import report

TEACHER = {
  'method': 'teacher',
  'model': 'resnet-110',
  'depth': 110,
  'parameters': 1_730_714,
  'macs': 252_887_680,
  'accuracy': 0.9421,
  'epochs': 200,
  'train_seconds': 0,
  'latency_ms': {'1': 8.0, '128': 90.0},
}
STUDENT = {
  'method': 'lit',
  'model': 'resnet-20',
  'depth': 20,
  'parameters': 269_722,
  'macs': 40_551_040,
  'accuracy': 0.9315,
  'epochs': 175,
  'train_seconds': 1500.0,
  'latency_ms': {'1': 1.6, '128': 18.0},
  'ir_error': {
    f'blocks_{i}': {'teacher_input': 0.02 * (i + 1), 'own_input': 0.1}
    for i in range(3)
  },
}
RESULTS = {
  'dataset': 'cifar10',
  'seed': 3,
  'rows': [TEACHER, STUDENT],
  'versions': {'jax': '0.10.0'},
  'device': 'one accelerator',
  'command': 'lit-jax compare --dataset cifar10',
}
CELLS = [
  *('lit', 'resnet-20', '20', '0.27 M', '40.6 M', '93.15', '-1.06', '175'),
  *('25 min', '1.6', '5.00x', '18', '5.00x'),
]


@pytest.fixture
def results():
  return copy.deepcopy(RESULTS)


def _metrics():
  for phase, epochs in (('ir', 2), ('finetune', 1)):
    for step in range(1, 4 * epochs + 1):
      record = {'method': 'lit', 'phase': phase, 'step': step}
      record |= {'epoch': step / 4, 'loss': 1 / step}
      yield record | {'split': 'train'}
      if step % 4 == 0:
        yield record | {'split': 'test', 'accuracy': 0.5 + 0.01 * step}


def _write(folder, results, metrics=None):
  (folder / 'results.json').write_text(json.dumps(results))
  if metrics is not None:
    (folder / 'metrics.jsonl').write_text(metrics)


def _page(folder, results, metrics=None):
  _write(folder, results, metrics)
  return report.write_html(folder).read_text(encoding='utf-8')


def _text(table, width=200):
  console = rich.console.Console(width=width)
  with console.capture() as capture:
    console.print(table)
  return capture.get()


def _lines(records):
  return ''.join(json.dumps(record) + '\n' for record in records)


def test_markdown_has_the_numbers(results):
  lines = report.markdown(results).splitlines()
  assert lines[3] == '| ' + ' | '.join(CELLS) + ' |'
  assert lines[2].startswith('| teacher | resnet-110 | 110 | 1.73 M | 253 M |')
  assert ' | 94.21 | - | 200 | given | 8 | 1.00x | 90 | 1.00x |' in lines[2]
  assert len({line.count('|') for line in lines}) == 1


def test_terminal_table_shows_every_number_in_80_columns(results):
  lines = _text(report.table(results), width=80).splitlines()
  start = next(i for i, line in enumerate(lines) if line.startswith('lit'))
  upper, lower = lines[start].split(), lines[start + 1].split()
  first = ['lit', *CELLS[2:9], CELLS[9], CELLS[11]]
  assert upper == ' '.join(first).split()
  assert lower == [CELLS[1], CELLS[10], CELLS[12]]


def test_missing_values_leave_a_dash(results):
  results['rows'] = [STUDENT | {'latency_ms': {'1': 2.0}, 'train_seconds': 9}]
  line = report.markdown(results).splitlines()[2]
  assert line.endswith('| 93.15 | - | 175 | 9 s | 2 | - | - | - |')
  assert '- ms' not in _text(report.table(results))


def test_markup_in_names_is_shown_as_it_is(results):
  results['rows'][1]['method'] = '[b]|x'
  assert '[b]|x' in _text(report.table(results))
  assert r'| \[b\]\|x |' in report.markdown(results)


@pytest.mark.parametrize(
  ('number', 'text'),
  [
    (650, '650'),
    (13_824, '13.8 k'),
    (272_474, '0.272 M'),
    (999_400_000, '999 M'),
    (999_900_000, '1 G'),
  ],
)
def test_counts_have_three_digits(results, number, text):
  results['rows'][0]['macs'] = number
  assert f'| {text} |' in report.markdown(results)


def test_page_stands_alone(tmp_path, results):
  page = _page(tmp_path, results, _lines(_metrics()))
  assert not re.search(r'(?i)https?://|<script|<link|@import|url\(', page)
  sources = re.findall(r'src="([^"]*)"', page)
  # Overview, accuracy, loss and the bars of one method.
  assert len(sources) == 4
  for source in sources:
    kind, data = source.split(',')
    assert kind == 'data:image/svg+xml;base64'
    assert b'</svg>' in base64.b64decode(data)
  assert [path.name for path in tmp_path.glob('*report*')] == ['report.html']


def test_page_tells_of_the_run(tmp_path, results):
  page = _page(tmp_path, results)
  for text in ('cifar10', 'jax 0.10.0', results['device'], results['command']):
    assert text in page
  for cell in CELLS:
    assert f'>{cell}</t' in page


def test_page_is_the_same_each_time(tmp_path, results):
  page = _page(tmp_path, results, _lines(_metrics()))
  assert report.write_html(tmp_path).read_text(encoding='utf-8') == page


def test_page_escapes(tmp_path, results):
  evil = '<script>alert("$x^$")</script>'
  results |= {key: evil for key in ('dataset', 'command', 'device')}
  results['versions'] = {evil: evil}
  results['rows'][1] |= {'method': evil, 'model': evil}
  records = [record | {'method': evil} for record in _metrics()]
  page = _page(tmp_path, results, _lines(records))
  assert '<script' not in page
  assert '&lt;script&gt;' in page


@pytest.mark.parametrize('metrics', [None, '', '{"method": "li'])
def test_page_without_metrics(tmp_path, results, metrics):
  page = _page(tmp_path, results, metrics)
  assert '<h2>Results</h2>' in page
  assert '<h2>Training</h2>' not in page


def test_page_without_ir_errors(tmp_path, results):
  del results['rows'][1]['ir_error']
  assert 'IR error' not in _page(tmp_path, results)


def test_page_goes_on_past_useless_lines(tmp_path, results):
  whole = _lines(_metrics())
  useless = ['null', '{"method": "lit"}', '{"epoch": NaN}', whole[:30]]
  page = _page(tmp_path, results, whole + '\n'.join(useless))
  assert page == _page(tmp_path, results, whole)


def test_a_repeated_step_replaces_the_first(tmp_path, results):
  records = list(_metrics())
  wrong = [record | {'loss': 1e6} for record in records[:3]]
  page = _page(tmp_path, results, _lines(wrong + records))
  assert page == _page(tmp_path, results, _lines(records))


def test_page_leaves_gaps_for_what_is_not_finite(tmp_path, results):
  records = list(_metrics())
  records[2]['loss'], records[3]['loss'] = float('nan'), float('inf')
  results['rows'][1]['ir_error']['blocks_0']['own_input'] = float('nan')
  results['rows'][1]['ir_error']['blocks_1']['own_input'] = 0
  assert 'loss of lit' in _page(tmp_path, results, _lines(records))


def test_page_leaves_out_a_curve_without_finite_values(tmp_path, results):
  records = [record | {'loss': float('nan')} for record in _metrics()]
  page = _page(tmp_path, results, _lines(records))
  assert 'loss of lit' not in page
  assert 'accuracy of lit' in page


def test_published_numbers(tmp_path, results):
  page = _page(tmp_path, results)
  cells = re.findall(r'<td class="published">([^<]*)', page)
  assert cells == ['-', '93.25']
  assert f'>{CELLS[5]}</td>\n      <td class="published">93.25<' in page
  assert 'Koratana' in page


def test_published_numbers_of_the_other_family(tmp_path, results):
  results['rows'] = [
    TEACHER | {'model': 'resnext-110 (32x4d)'},
    STUDENT
    | {'model': 'resnext-20 (32x4d)', 'depth': 29, 'method': 'several_irs'},
    STUDENT | {'model': 'resnext-56'},
    STUDENT | {'model': 'resnext-20 (32x4d)', 'method': 'scratch'},
  ]
  cells = re.findall(r'"published">([^<]*)</td', _page(tmp_path, results))
  assert cells == ['-', '91.27', '-', '-']


@pytest.mark.parametrize(
  ('dataset', 'teacher', 'student'),
  [
    ('cifar100', 'resnet-110', 'resnet-20'),
    ('cifar10', 'resnet-56', 'resnet-20'),
    ('cifar10', 'resnet-110', 'resnet-32'),
    ('cifar10', 'resnet-110', 'resnext-20'),
    ('cifar10', 'mine', 'mine'),
  ],
)
def test_no_published_numbers_for_other_runs(
  tmp_path, results, dataset, teacher, student
):
  results['dataset'] = dataset
  results['rows'][0]['model'] = teacher
  results['rows'][1]['model'] = student
  page = _page(tmp_path, results)
  assert 'Koratana' not in page
  assert 'class="published"' not in page


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{"dataset": ', 'not JSON'),
    ('[]', 'expected a JSON object'),
    ('{"dataset": "x", "seed": 0}', 'rows is missing'),
    ('{"dataset": "x", "seed": 0, "rows": []}', 'rows is empty'),
    ('{"dataset": "x", "seed": 0, "rows": [1]}', r'rows\[0\]: expected'),
    ('{"dataset": 1, "seed": 0, "rows": []}', 'dataset must be a string'),
    ('{"dataset": "x", "seed": true, "rows": []}', 'seed must be an integer'),
  ],
)
def test_malformed_results(tmp_path, text, message):
  (tmp_path / 'results.json').write_text(text)
  with pytest.raises(UserError, match=message) as caught:
    report.write_html(tmp_path)
  assert str(caught.value).count('\n') == 0
  assert 'results.json' in str(caught.value)
  assert not (tmp_path / 'report.html').exists()


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('accuracy', 93.15, 'between 0 and 1'),
    ('accuracy', None, 'accuracy must be a number'),
    ('depth', '20', 'depth must be an integer'),
    ('latency_ms', {'1': 'fast'}, 'latency_ms: 1 must be a number'),
    ('ir_error', [1], 'ir_error must be an object'),
    ('ir_error', {'blocks_0': 1}, 'blocks_0 must be an object'),
    ('ir_error', {'blocks_0': {'own_input': ''}}, 'own_input must be a number'),
  ],
)
def test_malformed_row(results, field, value, message):
  results['rows'][1][field] = value
  for show in (report.table, report.markdown):
    with pytest.raises(UserError, match=message):
      show(results)


def test_missing_results(tmp_path):
  with pytest.raises(UserError, match='cannot read'):
    report.write_html(tmp_path)


# Classes of different size, and systems from outside.


@pytest.fixture
def uneven(results):
  """300 and 100 test examples, and a baseline that is no network."""
  teacher, student = results['rows']
  teacher |= {'balanced_accuracy': 0.91, 'confusion': [[290, 10], [20, 80]]}
  student |= {'balanced_accuracy': 0.9, 'confusion': [[280, 20], [0, 100]]}
  results['classes'] = ['other <b>', 'great']
  baseline = {
    'method': 'tf-idf', 'model': 'regression', 'depth': None, 'macs': None,
    'parameters': 1234, 'accuracy': 0.5, 'balanced_accuracy': 0.625,
    'epochs': None, 'train_seconds': 3.0, 'latency_ms': {}, 'baseline': True,
  }  # fmt: skip
  results['rows'].append(baseline)
  return results


def test_balanced_accuracy_has_a_column_where_classes_differ(uneven):
  heading, _, teacher, student, baseline = report.markdown(uneven).splitlines()
  assert '| Acc. % | Balanced % | vs teacher |' in heading
  assert '| 94.21 | 91.00 | - |' in teacher
  assert '| 93.15 | 90.00 | -1.06 |' in student
  cells = [cell.strip() for cell in baseline.split('|')[1:-1]]
  assert cells == [
    'tf-idf', 'regression', '-', '1.23 k', '-', '50.00', '62.50', '-44.21',
    '-', '3 s', '-', '-', '-', '-',
  ]  # fmt: skip
  # The widest numbers that there are.
  for row in uneven['rows']:
    row |= {'parameters': 127_000, 'macs': 158_000_000}
    if row['method'] != 'tf-idf':
      row['latency_ms'] = {'1': 0.123, '128': 0.1234}
  # Wider than the table may be, for what is too wide would be cut off.
  console = rich.console.Console(width=200, color_system=None)
  with console.capture() as capture:
    console.print(report.table(uneven))
  lines = capture.get().splitlines()
  assert max(map(len, lines)) <= 80
  assert any('balanced' in line for line in lines)
  assert any('62.50' in line for line in lines)


def test_balanced_accuracy_has_no_column_where_it_tells_nothing(results):
  for row in results['rows']:
    row['balanced_accuracy'] = row['accuracy']
  assert 'Balanced' not in report.markdown(results)


def test_page_has_the_confusion_matrices(uneven, tmp_path):
  (tmp_path / 'results.json').write_text(json.dumps(uneven))
  page = report.write_html(tmp_path).read_text()
  section = page[page.index('<h2>Confusion') :]
  assert section.count('other &lt;b&gt;</th>') == 4
  for count in (290, 10, 20, 80, 280, 100):
    assert f'<td>{count}</td>' in section
  assert 'tf-idf' not in section


@pytest.mark.parametrize('field', ['parameters', 'accuracy', 'train_seconds'])
def test_what_a_baseline_must_have(uneven, field):
  uneven['rows'][2][field] = None
  with pytest.raises(UserError, match=rf'rows\[2\]: {field} must be'):
    report.markdown(uneven)
