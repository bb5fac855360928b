"""The results as tables and as a page."""

import base64
import copy
import json
import pathlib
import re
import subprocess
import sys

import pytest
import rich.console

from lit_jax import report
from lit_jax.errors import UserError
from lit_jax.report import Column, Row, columns

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
ACCURACY = (
  Column('accuracy', 'Acc. %', 'percent', narrow='Acc.\n%', label='accuracy'),
  Column(
    'balanced_accuracy',
    'Balanced %',
    'percent',
    unless_equal='accuracy',
    narrow='balanced',
    below=True,
  ),
  Column(
    'accuracy',
    'vs teacher',
    'percent',
    against='difference',
    narrow='vs\nteacher',
    note='The difference to the teacher is in percentage points.',
  ),
)
RESULTS = {
  'dataset': 'cifar10',
  'seed': 3,
  'rows': [TEACHER, STUDENT],
  'columns': [column.to_json() for column in ACCURACY],
  'selects': 'accuracy',
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


AREA = {'key': 'area', 'heading': 'Area', 'format': 'number'}


def _with(**fields):
  """The text of results with other fields, whose rows have no area."""
  rows = [TEACHER | {'area': 1.0}] if 'selects' in fields else [TEACHER]
  return json.dumps(RESULTS | {'rows': rows} | fields)


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


STITCH = {
  'blocks_0': {'score': 0.9321, 'lost': 0.01, 'input_shift': 0.0},
  'blocks_1': {'score': 0.8921, 'lost': 0.05, 'input_shift': 0.123456},
  'blocks_2': {'score': 0.9521, 'lost': -0.01, 'input_shift': 2.0},
}


def _shown(results, capsys):
  report.show(results, pathlib.Path('page.html'))
  return capsys.readouterr().out


def test_the_blocks_that_need_depth_are_shown(results, capsys):
  results['rows'][1]['stitch'] = STITCH
  lines = _shown(results, capsys).splitlines()
  start = next(i for i, line in enumerate(lines) if 'Input shift' in line)
  heading = 'Method Block accuracy lost, points IR error Input shift'
  assert lines[start].split() == heading.split()
  cells = [line.split() for line in lines[start + 2 : start + 5]]
  assert cells == [
    ['lit', 'block', '0', '1.00', '0.02', '0'],
    ['block', '1', '5.00', '0.04', '0.123'],
    ['block', '2', '-1.00', '0.06', '2'],
  ]
  assert lines[start + 5 :] == [
    'lit: Block 1 loses most: with it in place of its own, the teacher’s '
    'accuracy is 5.00 points worse (89.21 %). Depth is needed there first.',
    'report: page.html',
  ]


def test_blocks_that_lose_nothing(results, capsys):
  own = STITCH['blocks_2']
  unknown = own | {'lost': float('nan')}
  results['rows'][1]['stitch'] = {'blocks_0': unknown, 'blocks_1': own}
  del results['rows'][1]['ir_error']
  out = _shown(results, capsys)
  assert re.search(r'block 1 +-1.00 +- +2', out)
  assert 'lit: No block of the student makes the teacher worse.\n' in out


def test_a_run_without_tried_blocks_says_nothing_of_them(results, capsys):
  out = _shown(results, capsys)
  assert 'block' not in out and out.endswith('report: page.html\n')


def test_page_stands_alone(tmp_path, results):
  page = _page(tmp_path, results, _lines(_metrics()))
  assert not re.search(r'(?i)https?://|<script|<link|@import|url\(', page)
  sources = re.findall(r'src="([^"]*)"', page)
  # Against time, overview; accuracy, two losses and the bars of one method.
  assert len(sources) == 6
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
  assert (
    'forward pass. The difference to the teacher is in percentage points. '
    'Milliseconds are'
  ) in page
  assert 'Koratana' not in page


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
  page = _page(tmp_path, results, _lines(records))
  assert 'training objective of lit' in page


def test_page_leaves_out_a_curve_without_finite_values(tmp_path, results):
  records = [record | {'loss': float('nan')} for record in _metrics()]
  page = _page(tmp_path, results, _lines(records))
  assert 'objective of lit' not in page and 'loss of lit' not in page
  assert 'accuracy of lit' in page


def test_page_has_the_notes(tmp_path, results):
  results['notes'] = ['Measured <b>twice</b>.', 'Published: elsewhere.']
  page = _page(tmp_path, results)
  assert '<p class="note">Measured &lt;b&gt;twice&lt;/b&gt;.</p>' in page
  assert '<p class="note">Published: elsewhere.</p>' in page


def test_table_has_the_notes(results):
  results['notes'] = ['Measured [b]twice[/b].', 'Published: elsewhere.']
  *_, first, second = _text(report.table(results)).rstrip().splitlines()
  assert first.strip() == 'Measured [b]twice[/b].'
  assert second.strip() == 'Published: elsewhere.'


def test_page_needs_no_more_than_the_rows(tmp_path, results):
  results = {key: results[key] for key in ('dataset', 'seed', 'rows')}
  page = _page(tmp_path, results, _lines(_metrics()))
  headings = re.findall(r'<th scope="col"[^>]*>([^<]*)', page)
  assert headings == [
    'Method', 'Model', 'Depth', 'Params', 'MACs', 'Epochs', 'Training',
    'ms, batch 1', 'speed-up, 1', 'ms, batch 128', 'speed-up, 128',
  ]  # fmt: skip
  assert 'held-out loss of lit' in page
  assert 'percentage points' not in page
  assert not re.search(r'(?i)acc\.|accuracy', page)


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
    (_with(columns=1), 'columns must be a list'),
    (_with(columns=[1]), r'columns\[0\]: expected a JSON object'),
    (_with(columns=[{'key': 'a'}]), r'columns\[0\]: heading is missing'),
    (_with(columns=[AREA | {'format': 'x'}]), "format 'x' is not one of 'text"),
    (_with(columns=[AREA | {'against': 'x'}]), "against 'x' is not one of"),
    (_with(columns=[AREA | {'below': 1}]), 'below must be true or false'),
    (_with(columns=[AREA | {'belov': True}]), "unknown field 'belov'"),
    (
      _with(columns=[AREA | {'format': 'text', 'against': 'ratio'}]),
      'needs numbers',
    ),
    (_with(columns=[AREA]), r'rows\[0\]: area is missing'),
    (_with(columns=[AREA], selects='size'), "selects is 'size'; the columns"),
    (_with(selects=1), 'selects must be a string'),
    (_with(notes='one'), 'notes must be a list'),
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
    ('accuracy', True, 'accuracy must be a number'),
    ('balanced_accuracy', 91.0, 'balanced_accuracy must be between 0 and 1'),
    ('confusion', {}, 'confusion must be a list'),
    ('depth', '20', 'depth must be an integer'),
    ('latency_ms', {'1': 'fast'}, 'latency_ms: 1 must be a number'),
    ('ir_error', [1], 'ir_error must be an object'),
    ('ir_error', {'blocks_0': 1}, 'blocks_0 must be an object'),
    ('ir_error', {'blocks_0': {'own_input': ''}}, 'own_input must be a number'),
    ('stitch', [1], 'stitch must be an object'),
    ('stitch', {'blocks_0': 1}, 'stitch: blocks_0 must be an object'),
    ('stitch', {'blocks_0': {'score': 1}}, 'stitch.blocks_0: lost is missing'),
    (
      'stitch',
      {'blocks_0': {'score': 1, 'lost': '', 'input_shift': 0}},
      'stitch.blocks_0: lost must be a number',
    ),
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


def test_a_page_that_cannot_be_written(tmp_path, results):
  (tmp_path / 'report.html').mkdir()
  with pytest.raises(UserError, match='report.html: cannot write: Is a dir'):
    _page(tmp_path, results)
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'results.json', 'report.html'}


def test_page_with_half_a_letter(tmp_path, results):
  results['device'] = 'a\ud800b'
  assert '<dd>a?b</dd>' in _page(tmp_path, results)


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
  # Of two networks, above the columns and before the rows.
  assert section.count('<span>other &lt;b&gt;</span></th>') == 2
  assert section.count('other &lt;b&gt;</th>') == 2
  for count in (290, 10, 20, 80, 280, 100):
    assert f'<td>{count}</td>' in section
  assert 'tf-idf' not in section


@pytest.mark.parametrize('field', ['parameters', 'accuracy', 'train_seconds'])
def test_what_a_baseline_must_have(uneven, field):
  uneven['rows'][2][field] = None
  with pytest.raises(UserError, match=rf'rows\[2\]: {field} must be'):
    report.markdown(uneven)


# Another task.


@pytest.fixture
def regression(results):
  """Numbers of another kind, of which smaller is better."""
  own = (
    Column('rmse', 'RMSE', 'number'),
    Column('worst.case', 'Worst case', 'number', narrow='worst', below=True),
    Column('rmse', 'RMSE vs teacher', 'number', against='difference'),
    Column('rmse', 'RMSE ratio', 'ratio', against='ratio', below=True),
    Column('unit', 'Unit [x]', 'text', optional=True, words=True),
    Column('absent', 'Absent', 'integer', optional=True),
    Column('epochs', 'More', 'plain', below=True),
  )
  teacher, student = results['rows']
  for row in (teacher, student):
    del row['accuracy']
  teacher |= {'rmse': 0.123456, 'worst': {'case': 12345.6}, 'unit': 'K'}
  student |= {'rmse': 0.25, 'worst': {'case': 2}}
  results |= {'columns': [c.to_json() for c in own], 'selects': 'rmse'}
  return results


def test_the_columns_of_another_task(regression):
  heading, rule, teacher, student = report.markdown(regression).splitlines()
  assert (
    '| MACs | RMSE | Worst case | RMSE vs teacher | RMSE ratio '
    r'| Unit \[x\] | More | Epochs |'
  ) in heading
  assert rule.split('|')[10:12] == [' --- ', ' ---: ']
  assert '| 0.1235 | 12346 | - | 1.00x | K | 200 | 200 | given |' in teacher
  assert '| 0.25 | 2 | +0.1265 | 0.49x | - | 175 | 175 | 25 min |' in student


def test_the_columns_of_another_task_in_the_terminal(regression):
  lines = _text(report.table(regression)).splitlines()
  # The headings that nothing stands below are at the bottom.
  above = ' '.join(lines[0].split())
  assert above == 'Method RMSE RMSE vs teacher ms at ms at'
  for word in ('model', 'worst', 'RMSE ratio', 'Unit [x]', 'More', 'Epochs'):
    assert word in lines[1]
  start = next(i for i, line in enumerate(lines) if line.startswith('lit'))
  upper, lower = lines[start].split(), lines[start + 1].split()
  # What stood below a column that is left out stands alone.
  assert upper[6:11] == ['0.25', '+0.1265', '-', '175', '175']
  assert lower[:4] == ['resnet-20', '2', '0.49x', '5.00x']
  # A word stands flush left, and a number flush right.
  assert lines[start].index('- ') == lines[1].index('Unit')


def test_the_columns_of_another_task_in_the_page(tmp_path, regression):
  records = [
    {k: v for k, v in r.items() if k != 'accuracy'} | {'rmse': 1 / r['step']}
    for r in _metrics()
  ]
  page = _page(tmp_path, regression, _lines(records))
  assert '>RMSE</th>' in page
  assert '<th scope="col" class="word">Unit [x]</th>' in page
  assert '<td class="word">K</td>' in page
  for cell in ('0.1235', '12346', '+0.1265', '0.49x'):
    assert f'<td>{cell}</td>' in page
  assert '<figcaption>Held-out RMSE</figcaption>' in page
  assert 'alt="RMSE of lit by epoch"' in page
  assert 'alt="training objective of lit by epoch"' in page
  assert 'alt="held-out loss of lit by epoch"' in page
  assert 'accuracy' not in page
  drawn = [
    base64.b64decode(source).decode()
    for source in re.findall(r'base64,([^"]*)', page)
  ]
  assert len(drawn) == 6


def test_a_figure_names_its_metric_and_scale(tmp_path, results, monkeypatch):
  from lit_jax.report import plots

  drawn = []
  for name in ('curve', 'panels'):
    monkeypatch.setattr(
      plots, name, lambda _, metric, name=name: drawn.append((name, metric))
    )
  results['loss_name'] = 'cross-entropy'
  _page(tmp_path, results, _lines(_metrics()))
  # What is minimised and what is held out are never on one axis.
  train, test = ('train',), ('validation', 'test')
  assert drawn == [
    ('curve', plots.Metric('accuracy', 'accuracy', 'accuracy, %', 100.0)),
    (
      'panels',
      plots.Metric(
        'loss', 'training objective', 'training objective', 1.0, True, train
      ),
    ),
    (
      'curve',
      plots.Metric(
        'loss', 'held-out cross-entropy', 'held-out cross-entropy', 1.0, False,
        test,
      ),
    ),
  ]  # fmt: skip


def test_what_selects_the_loss_shows_it_once(tmp_path, results):
  results['selects'] = 'loss'
  page = _page(tmp_path, results, _lines(_metrics()))
  assert page.count('loss of lit') == 1
  assert page.count('training objective of lit') == 1
  assert 'Held-out' not in page


def test_a_column_is_not_left_below_a_stranger(regression):
  regression['columns'][1:2] = [
    Column('absent', 'Absent', 'integer', optional=True).to_json(),
    Column('worst.case', 'Worst', 'number', below=True).to_json(),
  ]
  shown = {column.heading: column for column in columns.of(regression)}
  assert 'Absent' not in shown
  assert not shown['Worst'].below
  assert shown['Model'].below


def test_the_sizes_of_pruned_networks_have_columns(results):
  plain = report.markdown(results).splitlines()[0]
  assert 'Non-zero' not in plain and 'Bytes' not in plain
  results['rows'][1] |= {'nonzeros': 135_000, 'sparse_bytes': 578_123}
  heading, _, teacher, student = report.markdown(results).splitlines()
  assert '| Params | Non-zero | Bytes | MACs |' in heading
  assert '| 1.73 M | - | - | 253 M |' in teacher
  assert '| 0.27 M | 0.135 M | 0.578 M | 40.6 M |' in student
  results['rows'][1]['nonzeros'] = 'half'
  with pytest.raises(UserError, match=r'rows\[1\]: nonzeros must be a number'):
    report.markdown(results)


@pytest.mark.parametrize('column', [*ACCURACY, *columns.LEADING])
def test_a_column_goes_to_json_and_back(column):
  text = json.dumps(column.to_json())
  assert Column.from_json(json.loads(text), 'here') == column
  assert None not in column.to_json().values()


def test_a_column_of_an_unknown_format_is_not_made():
  with pytest.raises(ValueError, match="format 'colour' is not one of"):
    Column('hue', 'Hue', 'colour')


@pytest.mark.parametrize(
  ('format', 'value', 'text'),
  [
    ('text', 'a', 'a'),
    ('integer', 1234, '1234'),
    ('count', 1234, '1.23 k'),
    ('percent', 0.935, '93.50'),
    ('number', 0.123456, '0.1235'),
    ('number', -98765.4, '-98765'),
    ('number', float('nan'), 'nan'),
    ('plain', 37.5, '37.5'),
    ('plain', 40.0, '40'),
    ('duration', 0, 'given'),
    ('duration', 99, '99 s'),
    ('duration', 100, '2 min'),
    ('duration', 7200, '2.0 h'),
    ('milliseconds', 0.12345, '0.123'),
    ('milliseconds', 12345.6, '12346'),
    ('ratio', 5, '5.00x'),
  ],
)
def test_formats(format, value, text):
  assert columns.FORMATS[format].text(value) == text


# Rows.


def test_a_row_goes_to_json_and_back():
  content = STUDENT | {'confusion': [[1]], 'seed': 3}
  keys = ('accuracy', 'confusion')
  row = Row.from_json(content, 'here', keys)
  assert row.scores == {'accuracy': 0.9315, 'confusion': [[1]]}
  assert row.details == {'ir_error': STUDENT['ir_error'], 'seed': 3}
  assert (row.method, row.depth, row.latency_ms['1']) == ('lit', 20, 1.6)
  assert row.to_json() == content
  assert list(row.to_json()) == [
    'method', 'model', 'depth', 'parameters', 'macs', 'accuracy', 'confusion',
    'epochs', 'train_seconds', 'latency_ms', 'ir_error', 'seed',
  ]  # fmt: skip
  assert Row.from_json(row.to_json(), 'here', keys) == row


def test_a_row_has_every_key_once():
  common = {k: v for k, v in TEACHER.items() if k != 'accuracy'}
  with pytest.raises(ValueError, match='a row has accuracy, macs twice'):
    Row(**common, scores={'accuracy': 1, 'macs': 2}, details={'accuracy': 0})


@pytest.mark.parametrize('field', ['macs', 'train_seconds', 'latency_ms'])
def test_a_row_lacks_a_field(field):
  content = {k: v for k, v in TEACHER.items() if k != field}
  with pytest.raises(UserError, match=f'^here: {field} is missing$'):
    Row.from_json(content, 'here', ())


def test_a_value_is_found_by_its_key():
  row = Row.from_json(TEACHER | {'a.b': 1, 'c': {'d': 2}}, 'here', ())
  assert row.value('a.b') == 1
  assert row.value('c.d') == 2
  assert row.value('latency_ms.128') == 90.0
  assert row.value('latency_ms.64') is None
  assert row.value('method.name', 'none') == 'none'


def test_import_needs_no_matplotlib():
  program = 'import sys, lit_jax.report; print("matplotlib" in sys.modules)'
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == 'False'
