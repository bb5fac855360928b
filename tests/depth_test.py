"""What each block of a student loses, in words and in a figure."""

import copy
import re

import pytest
from report_test import ACCURACY, RESULTS

from lit_jax import files
from lit_jax.report import Row, depth, plots, scores
from lit_jax.report.page import write_html

STITCH = {
  'blocks_0': {'score': 0.94, 'lost': -0.001, 'input_shift': 0.0},
  'blocks_1': {'score': 0.9, 'lost': 0.0421, 'input_shift': 0.125},
  'blocks_2': {'score': 0.93, 'lost': 0.0121, 'input_shift': 0.5},
}


def _row(stitch, **more):
  content = RESULTS['rows'][1] | {'stitch': stitch} | more
  return Row.from_json(content, 'here', ('accuracy',))


def _score(**changes):
  return scores.of(RESULTS | changes)


def test_the_block_that_loses_most():
  found = depth.of(_row(STITCH), _score())
  assert found is not None
  assert found.lost == pytest.approx(
    {'blocks_0': -0.1, 'blocks_1': 4.21, 'blocks_2': 1.21}
  )
  assert found.cells == [
    ['block 0', '-0.10', '0.02', '0'],
    ['block 1', '4.21', '0.04', '0.125'],
    ['block 2', '1.21', '0.06', '0.5'],
  ]
  assert found.sentence == (
    'Block 1 loses most: with it in place of its own, the teacher’s accuracy '
    'is 4.21 points worse (90.00 %). Depth is needed there first.'
  )


def test_a_score_of_which_less_is_better():
  results = {
    'columns': [{'key': 'fid', 'heading': 'FID', 'format': 'number'}],
    'selects': 'fid',
    'selects_largest': False,
  }
  score = _score(**results)
  stitch = {'blocks_0': {'score': 14.25, 'lost': 2.25, 'input_shift': 0.1}}
  found = depth.of(_row(stitch, ir_error=None), score)
  assert found is not None
  assert found.cells == [['block 0', '2.25', '-', '0.1']]
  assert 'the teacher’s FID is 2.25 worse (14.25).' in found.sentence
  assert depth.axis(score) == 'FID lost'
  assert depth.axis(_score()) == 'accuracy lost, points'


def test_nothing_is_lost():
  stitch = {name: own | {'lost': 0.0} for name, own in STITCH.items()}
  found = depth.of(_row(stitch), _score())
  assert found is not None
  assert found.sentence == 'No block of the student makes the teacher worse.'


def test_a_teacher_of_another_name():
  found = depth.of(_row(STITCH, teacher='lit-44'), _score())
  assert found is not None
  assert 'in place of its own, lit-44’s accuracy is 4.21' in found.sentence


@pytest.mark.parametrize('lost', [1e200, float('nan'), float('inf')])
def test_what_is_not_known_has_a_dash(lost):
  stitch = copy.deepcopy(STITCH)
  stitch['blocks_1']['lost'] = lost
  found = depth.of(_row(stitch), _score())
  assert found is not None
  assert found.lost['blocks_1'] is None
  assert found.cells[1][1] == '-'
  assert found.sentence.startswith('Block 2 loses most')
  assert depth.limits([found])[0] == pytest.approx(-0.1 - 0.08 * 1.31)
  assert plots.lost_bars(found.lost, 'a', depth.limits([found]))


def test_rows_without_it():
  assert depth.of(_row({}), _score()) is None
  assert depth.of(_row(None), _score()) is None
  low, high = depth.limits([])
  assert low < high


def test_a_page_has_the_section(tmp_path):
  results = copy.deepcopy(RESULTS)
  results['columns'] = [column.to_json() for column in ACCURACY]

  def page():
    files.write_json(tmp_path / 'results.json', results)
    return write_html(tmp_path).read_text()

  assert 'Where depth is needed' not in page()
  results['rows'][1]['stitch'] = STITCH
  found = page()
  section = found[found.index('<h2>Where depth is needed</h2>') :]
  assert 'Block 1 loses most' in section
  cells = re.findall(r'<td>([^<]*)</td>', section)
  assert cells == [
    '-0.10', '0.02', '0', '4.21', '0.04', '0.125', '1.21', '0.06', '0.5',
  ]  # fmt: skip
  # The bars stand beside those of the IR error.
  assert section.count('<img') == 2
  assert 'other rows' not in section
  # Who has no more than these follows after all that have.
  plain = RESULTS['rows'][1] | {'method': 'kd'}
  results['rows'].insert(1, plain)
  section = page().partition('<h2>Where depth is needed</h2>')[2]
  assert re.findall('<h3>(.*?)</h3>', section) == [
    'lit (resnet-20)', 'IR error of the other rows',
  ]  # fmt: skip
  assert '<figcaption>kd (resnet-20)</figcaption>' in section
