"""Examples that a student takes for another class than its teacher does."""

import base64
import copy
import io
import json
import re

import numpy as np
import pytest
from drawn import noise_split
from PIL import Image
from report_test import RESULTS

from lit_jax import report
from lit_jax.data.dataset import Split
from lit_jax.data.preprocess import AsIs, ImagePreprocess, TextPreprocess
from lit_jax.data.texts import characters
from lit_jax.errors import UserError
from lit_jax.tasks import disagreements
from lit_jax.training import logs
from lit_jax.training.task import Answers

IMAGES = ImagePreprocess((0.5,) * 3, (0.25,) * 3)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)
TEACHER = Answers(
  np.array([0, 1, 1, 0, 2, 2], np.int32),
  np.array([0.9, 0.5, 0.7, 0.97, 0.9, 0.6], np.float32),
)
# Right where the teacher is not, wrong where it is right, and neither.
STUDENT = Answers(
  np.array([0, 2, 2, 1, 0, 2], np.int32), np.full(6, 0.123456, np.float32)
)


def _split(inputs):
  return Split(inputs, LABELS)


def _find(inputs, preprocess=IMAGES, **more):
  return disagreements.find(
    _split(inputs), preprocess, TEACHER, STUDENT, **more
  )


def test_counts_and_the_surest_first():
  found = _find(noise_split(6, 0).inputs)
  assert found.details['disagreement_counts'] == {
    'examples': 6, 'all': 4, 'teacher_right': 2, 'student_right': 1,
  }  # fmt: skip
  own = found.details['disagreements']
  assert [example['index'] for example in own] == [3, 4, 2, 1]
  assert own[0] == {
    'index': 3, 'label': 0, 'teacher': 0, 'student': 1,
    'teacher_probability': 0.97, 'student_probability': 0.1235,
  }  # fmt: skip
  # As JSON has it.
  assert json.loads(json.dumps(found.details)) == found.details


def test_equally_sure_ones_are_in_order():
  sure = Answers(np.zeros(6, np.int32), np.full(6, 0.5, np.float32))
  sure.probabilities[4] += 1e-6  # which is rounding
  other = Answers(np.ones(6, np.int32), sure.probabilities)
  split = _split(noise_split(6, 0).inputs)
  found = disagreements.find(split, IMAGES, sure, other, most=5)
  indices = [own['index'] for own in found.details['disagreements']]
  assert indices == [0, 1, 2, 3, 4]
  assert found.details['disagreement_counts']['all'] == 6


@pytest.mark.parametrize('channels', [1, 3])
def test_images(channels):
  inputs = noise_split(6, 0).inputs[..., :channels]
  found = _find(inputs)
  assert found.sheet is not None
  assert found.sheet.images.shape == (4, 1, 8, 8, 3)
  for i, tile in zip([3, 4, 2, 1], found.sheet.images, strict=True):
    np.testing.assert_array_equal(tile[0] - inputs[i], np.zeros((8, 8, 3)))


def test_what_cannot_be_drawn_has_no_images():
  assert _find(noise_split(6, 0).inputs[..., :2]).sheet is None
  found = _find({'a': np.zeros((6, 2))}, AsIs())
  assert found.sheet is None
  assert 'text' not in found.details['disagreements'][0]


def test_networks_that_agree():
  split = _split(noise_split(6, 0).inputs)
  found = disagreements.find(split, IMAGES, TEACHER, TEACHER)
  assert found == (
    {
      'disagreements': [],
      'disagreement_counts': {
        'examples': 6, 'all': 0, 'teacher_right': 0, 'student_right': 0,
      },
    },
    None,
  )  # fmt: skip


def test_texts():
  letters = {letter: i + 1 for i, letter in enumerate(characters.SYMBOLS)}
  texts = ['a', 'b', 'c', 'good  book ' * 50, 'e', 'f']
  ids = np.zeros((6, 600), np.uint8)
  for row, text in zip(ids, texts, strict=True):
    row[: len(text)] = [letters[letter] for letter in text]
  found = _find(ids, TextPreprocess())
  own = [example['text'] for example in found.details['disagreements']]
  assert own[1:] == ['e', 'c', 'b']
  assert own[0].startswith('good book good book') and own[0].endswith('…')
  assert len(own[0]) == 240
  assert found.sheet is None


# On the page.


@pytest.fixture
def results(tmp_path):
  """Of a student whose images lie in `tmp_path`."""
  results = copy.deepcopy(RESULTS)
  found = _find(noise_split(6, 0).inputs)
  sheet = logs.write_sheet(tmp_path, 'lit', 'disagreements', found.sheet)
  results['rows'][1] |= found.details | {'disagreement_images': sheet}
  results['classes'] = ['cat', 'dog <b>', 'owl']
  return results


def _section(folder, results):
  (folder / 'results.json').write_text(json.dumps(results))
  page = report.write_html(folder).read_text()
  start = page.index('<h2>Where teacher and student disagree</h2>')
  return page[start : page.index('<h2>The run</h2>')]


def test_a_page_shows_them(tmp_path, results):
  section = _section(tmp_path, results)
  assert (
    'lit and the teacher disagree on 4 of 6 scored examples. Of these the '
    'teacher gets 2 right, lit 1, and neither 1. Below are the 4 of which the '
    'teacher is surest.'
  ) in section
  values = re.findall(r'<dd[^>]*>([^<]*)</dd>', section)
  assert values[:3] == ['cat', 'cat (97\u00a0%)', 'dog &lt;b&gt; (12\u00a0%)']
  # Who is right: the teacher of 3 and 1, the student of 2, and of 4 neither.
  assert section.count('class="right"') == 3
  shown = re.findall(r'data:image/png;base64,([^"]*)', section)
  assert len(shown) == 4
  for i, content in zip([3, 4, 2, 1], shown, strict=True):
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
      np.testing.assert_array_equal(
        np.asarray(image), noise_split(6, 0).inputs[i]
      )


def test_a_page_of_texts(tmp_path, results):
  del results['rows'][1]['disagreement_images']
  for own in results['rows'][1]['disagreements']:
    own['text'] = f'<i>{own["index"]}'
  section = _section(tmp_path, results)
  assert section.count('<p>&lt;i&gt;') == 4 and '<img' not in section


def test_a_page_without_class_names_or_probabilities(tmp_path, results):
  results['classes'] = ['cat']
  (tmp_path / 'pictures/lit/disagreements.png').unlink()
  for own in results['rows'][1]['disagreements']:
    del own['teacher_probability']
  section = _section(tmp_path, results)
  values = re.findall(r'<dd[^>]*>([^<]*)</dd>', section)
  assert values[:3] == ['cat', 'cat', '1 (12\u00a0%)']
  assert '<p>Example 3</p>' in section


def test_a_page_of_networks_that_agree(tmp_path, results):
  counts = {'examples': 1200, 'all': 0, 'teacher_right': 0, 'student_right': 0}
  row = results['rows'][1]
  row |= {'disagreements': [], 'disagreement_counts': counts}
  assert (
    'On all 1,200 scored examples lit says what the teacher says.'
    in _section(tmp_path, results)
  )


def test_a_teacher_of_another_name(tmp_path, results):
  results['rows'][1]['teacher'] = 'lit-<44>'
  assert 'lit and lit-&lt;44&gt; disagree on 4' in _section(tmp_path, results)
  # Whatever stands there, for no other part of the page asks for it.
  results['rows'][1]['teacher'] = 5
  assert 'lit and 5 disagree on 4' in _section(tmp_path, results)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('disagreements', {}, 'disagreements must be a list'),
    ('disagreements', [1], r'disagreements\[0\]: example must be an object'),
    ('disagreements', [{'index': 1}], r'\[0\]: label is missing'),
    ('disagreement_counts', {'all': 1}, 'counts: examples is missing'),
    (
      'disagreement_images',
      {'file': '/etc/x', 'columns': [], 'rows': 1},
      'file must be a path below the workdir',
    ),
  ],
)
def test_malformed(tmp_path, results, field, value, message):
  results['rows'][1][field] = value
  with pytest.raises(UserError, match=message) as caught:
    _section(tmp_path, results)
  assert str(caught.value).count('\n') == 0
