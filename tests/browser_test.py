"""The page in a real browser, Chromium: narrow as a phone, and wide."""

import copy
import itertools
import json
import shutil

import numpy as np
import pytest
from drawn import noise_split
from report_test import RESULTS, _lines, _metrics

from lit_jax import report
from lit_jax.training import logs
from lit_jax.training.task import Sheet

WIDTHS = (360, 1280)
LONG = 'x' * 90  # letters at which no line breaks
CLASSES = [f'a class of a long name {i}' for i in range(9)] + [LONG]


@pytest.fixture(scope='module')
def chromium():
  api = pytest.importorskip(
    'playwright.sync_api',
    reason="needs playwright: pip install -e '.[browser]'",
  )
  found = shutil.which('chromium') or shutil.which('chromium-browser')
  if found is None:
    pytest.skip('needs Chromium: apt-get install chromium')
  with api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=found)
    yield browser
    browser.close()


def _stitch(lost):
  return {
    f'blocks_{i}': {'score': 0.9, 'lost': own, 'input_shift': 0.25}
    for i, own in enumerate(lost)
  }


def _examples(text):
  return [
    {
      'index': i, 'label': 9, 'teacher': i % 10, 'student': 8,
      'teacher_probability': 0.9975, 'student_probability': 0.5,
      **({'text': f'{text} {LONG}'} if text else {}),
    }
    for i in range(12)
  ]  # fmt: skip


def _full(folder):
  """Results with all that a page can show, and nothing that breaks in lines."""
  results = copy.deepcopy(RESULTS)
  teacher, student = results['rows']
  results |= {'classes': CLASSES, 'dataset': LONG, 'device': LONG}
  results |= {'command': LONG * 3, 'notes': [f'A note on {LONG}']}
  confusion = np.arange(100).reshape(10, 10).tolist()
  counts = {'examples': 90, 'all': 12, 'teacher_right': 1, 'student_right': 0}
  drawn = noise_split(12, 0).inputs
  sheet = Sheet(drawn.reshape(2, 6, 8, 8, 3), tuple('abcdef'))
  images = Sheet(drawn[:, None], ('image',))
  student |= {
    'confusion': confusion,
    'stitch': _stitch((0.01, -0.002, 0.2)),
    'sheets': {'drawn': logs.write_sheet(folder, 'lit', 'drawn', sheet)},
    'disagreements': _examples(''),
    'disagreement_counts': counts,
    'disagreement_images': logs.write_sheet(folder, 'lit', 'd', images),
  }
  long = student | {'method': LONG, 'model': LONG, 'accuracy': 0.25}
  del long['disagreement_images']
  text = {'disagreements': _examples('words and'), 'teacher': LONG}
  plain = teacher | {'method': 'b', 'ir_error': student['ir_error']}
  results['rows'] += [plain, long | text]
  records = list(_metrics())
  records += [record | {'method': LONG} for record in records]
  return results, _lines(records)


@pytest.fixture(scope='module', params=['full', 'plain'])
def page(chromium, request, tmp_path_factory):
  """Of a run with everything, and of one with a table alone."""
  del chromium  # without one nothing is drawn
  folder = tmp_path_factory.mktemp('page')
  results, metrics = RESULTS | {'rows': RESULTS['rows'][:1]}, ''
  if request.param == 'full':
    results, metrics = _full(folder)
  (folder / 'results.json').write_text(json.dumps(results))
  (folder / 'metrics.jsonl').write_text(metrics)
  return report.write_html(folder)


@pytest.fixture(params=WIDTHS)
def opened(request, chromium, page):
  """A tab with the page, and what the browser said and asked for."""
  tab = chromium.new_page(viewport={'width': request.param, 'height': 700})
  said = []
  tab.on('console', lambda message: said.append(message.text))
  tab.on('pageerror', lambda error: said.append(str(error)))
  tab.on('request', lambda asked: said.append(asked.url))
  tab.goto(page.as_uri())
  yield tab, [line for line in said if not line.startswith('data:image/')]
  tab.close()


def test_nothing_but_the_page_scrolls_down(opened, page):
  tab, said = opened
  # The page itself is all that was asked for, and nothing is complained of.
  assert said == [page.as_uri()]
  width = tab.evaluate('document.documentElement.scrollWidth')
  assert width <= tab.evaluate('innerWidth')
  # What is wider scrolls in a region of its own, which a key reaches.
  stuck = """[...document.querySelectorAll('body *')].filter(own =>
    own.getBoundingClientRect().right > innerWidth + 1
    && !own.closest('.scroll[tabindex="0"]')).map(own => own.outerHTML)"""
  assert tab.evaluate(stuck) == []


def test_every_image_is_drawn(opened):
  tab, _ = opened
  images = tab.evaluate("""[...document.images].map(own =>
    [own.complete, own.naturalWidth, own.width, own.alt])""")
  for complete, natural, shown, alt in images:
    assert complete and natural > 0 and shown > 0 and alt


def test_headings_are_in_order(opened):
  tab, _ = opened
  levels = tab.evaluate("""[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')]
    .map(own => Number(own.tagName[1]))""")
  assert levels[0] == 1 and levels.count(1) == 1
  assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_small_images_are_shown_large_with_their_pixels(opened, request):
  tab, _ = opened
  found = tab.evaluate("""[...document.querySelectorAll('.pixels')].map(own =>
    [own.naturalWidth, own.width, getComputedStyle(own).imageRendering])""")
  full = 'full' in request.node.name
  assert len(found) == (12 if full else 0)
  for natural, shown, rendering in found:
    assert (natural, rendering) == (8, 'pixelated') and shown >= 96
