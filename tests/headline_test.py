"""The sentence on top of a page: who is named, how fast, and at what cost."""

import pytest

from lit_jax.errors import UserError
from lit_jax.report import headline

ACCURACY = {
  'key': 'accuracy', 'heading': 'Acc. %', 'format': 'percent',
  'label': 'accuracy',
}  # fmt: skip
FID = {'key': 'fid', 'heading': 'FID', 'format': 'number'}


def _row(method, score, ms=None, key='accuracy', model='resnet-8'):
  times = {} if ms is None else {'1': ms / 100, '128': ms}
  return {
    'method': method, 'model': model, 'depth': 8, 'parameters': 75, 'macs': 9,
    'epochs': 1, 'train_seconds': 1.0, 'latency_ms': times, key: score,
  }  # fmt: skip


def _results(*rows, column=ACCURACY, **more):
  return {
    'dataset': 'mine', 'seed': 0, 'rows': list(rows), 'columns': [column],
    'selects': column['key'], 'selects_largest': True,
  } | more  # fmt: skip


def _sentence(results):
  found = headline.of(results)
  return '' if found is None else found.sentence


TEACHER = _row('teacher', 0.8764, 100.0, model='resnet-20')
LIT = _row('lit', 0.8642, 34.6)
KD = _row('kd', 0.85, 20.0)
# The best of all, and not faster than the teacher.
SLOW = _row('wide', 0.99, 101.0)


def test_the_best_of_the_faster_is_named():
  found = headline.of(_results(TEACHER, KD, LIT, SLOW))
  assert found == (
    'lit (resnet-8) is 2.9 times as fast as the teacher at batch 128 and 1.22 '
    'points less accurate (86.42 % against 87.64 %).',
    'Named is the student with the best accuracy among those that are faster '
    'than the teacher.',
  )


@pytest.mark.parametrize(
  ('score', 'words'),
  [
    (0.8764, ' and as accurate (87.64 %).'),
    (0.9, ' and 2.36 points more accurate (90.00 % against 87.64 %).'),
    (0.5, ' and 37.64 points less accurate (50.00 % against 87.64 %).'),
  ],
)
def test_what_the_speed_costs(score, words):
  sentence = _sentence(_results(TEACHER, _row('lit', score, 50.0)))
  assert sentence.endswith(
    f'2.0 times as fast as the teacher at batch 128{words}'
  )


@pytest.mark.parametrize(
  ('ms', 'words'),
  [
    (99.0, 'about as fast as'), (95.0, '1.1 times as fast as'),
    (10.04, '10 times as fast as'), (0.5, '200 times as fast as'),
  ],
)  # fmt: skip
def test_how_fast(ms, words):
  assert f'is {words} the' in _sentence(_results(TEACHER, _row('a', 0.5, ms)))


def test_nobody_is_faster():
  found = headline.of(_results(TEACHER, SLOW, _row('worse', 0.9, 200.0)))
  assert found == (
    'No student is faster than the teacher at batch 128. wide (resnet-8) has '
    'the best accuracy: 99.00 % against 87.64 %.',
    'Named is the student with the best accuracy.',
  )


def test_a_score_of_which_less_is_better():
  teacher = _row('teacher', 12.0, 90.0, 'fid')
  rows = _row('lit', 13.25, 60.0, 'fid'), _row('l2', 20.0, 45.0, 'fid')
  found = _results(teacher, *rows, column=FID, selects_largest=False)
  assert _sentence(found) == (
    'lit (resnet-8) is 1.5 times as fast as the teacher at batch 128, with FID '
    '13.25 against 12 (less is better).'
  )


def test_a_percentage_that_is_no_accuracy():
  column = ACCURACY | {'label': 'attribute accuracy'}
  assert _sentence(_results(TEACHER, LIT, column=column)).endswith(
    ' at batch 128, with attribute accuracy 86.42 % against 87.64 %.'
  )


def test_an_unknown_direction_names_the_fastest():
  results = _results(
    _row('teacher', 12.0, 90.0, 'fid'),
    _row('lit', 13.25, 60.0, 'fid'),
    _row('l2', 20.0, 45.0, 'fid'),
    column=FID,
  )
  del results['selects_largest']
  assert headline.of(results) == (
    'l2 (resnet-8) is 2.0 times as fast as the teacher at batch 128, with FID '
    '20 against 12.',
    'Named is the fastest student.',
  )
  # Of a percentage more is better, as ever.
  results = _results(TEACHER, KD, LIT)
  del results['selects_largest']
  assert _sentence(results).startswith('lit ')


def test_the_loss_is_in_no_row():
  results = _results(TEACHER, LIT, KD) | {'selects': 'loss'}
  assert headline.of(results) == (
    'kd (resnet-8) is 5.0 times as fast as the teacher at batch 128.',
    'Named is the fastest student.',
  )
  assert _sentence(_results(TEACHER, SLOW) | {'selects': 'loss'}) == (
    'No student is faster than the teacher at batch 128.'
  )


@pytest.mark.parametrize(
  ('rows', 'sentence'),
  [
    # Without a teacher, and without times.
    ((LIT, KD), 'lit (resnet-8) has the best accuracy: 86.42 %.'),
    (
      (_row('teacher', 0.8764), LIT),
      'lit (resnet-8) has the best accuracy: 86.42 % against 87.64 %.',
    ),
    ((TEACHER,), ''),
    ((_row('teacher', 0.8764),), ''),
  ],
)
def test_rows_that_lack_something(rows, sentence):
  assert _sentence(_results(*rows)) == sentence


def test_a_row_that_was_not_scored():
  unscored = {k: v for k, v in LIT.items() if k != 'accuracy'}
  unscored['unscored'] = True
  assert _sentence(_results(TEACHER, unscored, KD)).startswith('kd ')
  assert _sentence(_results(TEACHER, unscored)) == (
    'lit (resnet-8) is 2.9 times as fast as the teacher at batch 128.'
  )
  teacher = {k: v for k, v in TEACHER.items() if k != 'accuracy'}
  assert _sentence(_results(teacher | {'unscored': True}, LIT)) == (
    'lit (resnet-8) is 2.9 times as fast as the teacher at batch 128, with '
    'accuracy 86.42 %.'
  )


def test_batch_1_where_nothing_else_was_timed():
  rows = [row | {'latency_ms': {'1': row['accuracy']}} for row in (TEACHER, KD)]
  assert 'is about as fast as the teacher at batch 1 and' in _sentence(
    _results(*rows)
  )


@pytest.mark.parametrize('ms', [0, -1.0, float('nan'), float('inf'), 1e308])
def test_times_that_are_none(ms):
  row = LIT | {'latency_ms': {'128': ms}}
  assert _sentence(_results(TEACHER, row)).startswith('lit (resnet-8) has the')


def test_selects_must_be_a_column():
  with pytest.raises(UserError, match="selects is 'size'; the columns have"):
    headline.of(_results(TEACHER, LIT) | {'selects': 'size'})
