"""Whole runs of translation by the command line, on the embedded portraits."""

import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from lit_jax.networks import saved
from lit_jax.report import write_html
from lit_jax.training import checkpoint, loop

# How ml_collections loads a configuration file.
pytestmark = pytest.mark.filterwarnings(
  r'ignore:the load_module\(\) method is deprecated:DeprecationWarning'
)

CONFIG = pathlib.Path(__file__).parents[1] / 'experiments/configs/stargan.py'
# 80 images: five steps an epoch, of which the second and the fourth update the
# generator. Three steps a call, so that runs stop between two updates.
SETTINGS = {
  'data.attributes': 'Woman',
  'teacher.width': 2,
  'teacher.depth': 10,
  'student.width': 2,
  'student.depth': 8,
  'judge.depth': 8,
  'discriminator_width': 2,
  'n_critic': 2,
  'steps_per_call': 3,
  'shift': 2,
  'train_judge.epochs': 1,
  'train_teacher.epochs': 2,
  'scratch.epochs': 1,
  'lit.epochs': 1,
  'finetune.epochs': 2,
  'l2.epochs': 1,
  'method': 'lit',
}
SIGNAL = 15


@pytest.fixture
def celeba(main, tmp_path):
  """The command line, with settings changed."""

  def run(changes=None, workdir=tmp_path / 'run'):
    return main(
      f'--config={CONFIG}',
      f'--workdir={workdir}',
      *(
        f'--config.{key}={value}'
        for key, value in (SETTINGS | (changes or {})).items()
      ),
    )

  return run


def _rows(workdir):
  results = json.loads((workdir / 'results.json').read_text())
  return {row['method']: row for row in results['rows']}


def _assert_same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def _records(workdir):
  """The records, without what depends on time; of stopped runs the later."""
  found = {}
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    record = json.loads(line)
    if record['split'] != 'train':
      record.pop('train_seconds')
      key = tuple(record[k] for k in ('method', 'phase', 'split', 'step'))
      found[key] = record
  return found


def _last_state(workdir, phase):
  """Everything that the newest checkpoint of a phase holds."""
  with checkpoint.ocp.CheckpointManager((workdir / phase).resolve()) as manager:
    args = checkpoint.ocp.args
    found = manager.restore(
      manager.latest_step(), args=args.Composite(state=args.StandardRestore())
    )
    return found['state']


@pytest.mark.slow
def test_all_rows_of_a_run(celeba, tmp_path):
  methods = 'lit,l2,scratch,random,random_deep'
  code, out, err = celeba({'method': methods})
  assert code == 0, err
  workdir = tmp_path / 'run'
  rows = _rows(workdir)
  assert list(rows) == ['teacher', *methods.split(',')]
  depths = {name: row['depth'] for name, row in rows.items()}
  assert depths == {
    'teacher': 10, 'lit': 8, 'l2': 8, 'scratch': 8, 'random': 8,
    'random_deep': 10,
  }  # fmt: skip
  for row in rows.values():
    assert 0 <= row['attribute_accuracy'] <= 1
    assert 0 < row['l1'] < 255
    sheet = row['sheets']['translations']
    assert sheet['columns'] == ['Input', 'Woman']
    # Eight people, an input and one translation.
    with Image.open(workdir / sheet['file']) as image:
      assert image.size == (2 * 32, 8 * 32)
  assert rows['random']['epochs'] == 0
  # A picture after every epoch, and the joined one beside the page.
  drawn = sorted((workdir / 'pictures/lit/finetune').iterdir())
  assert [p.name for p in drawn] == [
    'translations-0001.png', 'translations-0002.png'
  ]  # fmt: skip
  # The fixture leaves the page out.
  page = write_html(workdir).read_text()
  assert 'data:image/png;base64' in page
  # Of the headings, the input and the attribute; true, teacher, lit, l2 and
  # scratch for each of four people, but nothing of untrained networks.
  with Image.open(workdir / 'translations.png') as image:
    assert 4 * 5 * 64 < image.height < 4 * 6 * 64
  # The columns say what they are, and nothing here is an FID.
  assert 'FID' not in out
  assert re.search(r'reads\s+[0-9.]+ % of the scored real images', page)

  # The block alone learned by LIT; all else was the teacher's.
  def read(name):
    role = 'teacher' if name == 'teacher' else 'student'
    return saved.load(workdir / name / role)[1]['params']

  before = _last_state(workdir, 'lit/lit')['learners']
  assert list(before) == ['student']
  student, teacher = before['student']['params'], read('teacher')
  for part in ('stem', 'head'):
    _assert_same(jax.tree.map(lambda x: x[0], student[part]), teacher[part])
  after = _last_state(workdir, 'lit/finetune')['learners']
  assert set(after) == {'student', 'discriminator'}
  # Only who teaches keeps its discriminator.
  assert saved.describe(workdir / 'teacher/teacher').others
  assert not saved.describe(workdir / 'lit/student').others
  assert not (workdir / 'lit/student/others').exists()

  # The same command again only reports.
  code, again, err = celeba({'method': methods})
  assert code == 0 and out.endswith(again), err
  # A sheet that is gone is left out, and the others are joined.
  (workdir / rows['l2']['sheets']['translations']['file']).unlink()
  write_html(workdir)
  with Image.open(workdir / 'translations.png') as image:
    assert 4 * 4 * 64 < image.height < 4 * 5 * 64


def _stop_at(patch, place, call):
  """The `call`-th superbatch of this phase sets the stop of its run."""
  train_phase = loop.run

  def run(phase, workdir, first, observer, *more):
    superbatch, calls = phase.feed.superbatch, []

    def asked(step):
      calls.append(step)
      if f'{phase.method}/{phase.name}' == place and len(calls) == call:
        observer.stop = SIGNAL
      return superbatch(step)

    phase.feed.superbatch = asked
    return train_phase(phase, workdir, first, observer, *more)

  patch.setattr(loop, 'run', run)


@pytest.mark.slow
def test_stopped_in_every_phase_is_the_run_that_was_not(
  celeba, tmp_path, monkeypatch
):
  methods = {'method': 'lit,l2,scratch'}
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  code, _, err = celeba(methods, whole)
  assert code == 0, err
  for place in (
    'judge/train_judge', 'teacher/train_teacher', 'lit/lit', 'lit/finetune',
    'l2/l2', 'scratch/scratch',
  ):  # fmt: skip
    with monkeypatch.context() as patch:
      # After step 3: between the generator's updates at steps 2 and 4.
      _stop_at(patch, place, 1)
      code, _, err = celeba(methods, stopped)
    assert code == 128 + SIGNAL, err
    assert f'in {place} at step 3' in err
  code, _, err = celeba(methods, stopped)
  assert code == 0, err
  for phase in (
    'judge/train_judge', 'teacher/train_teacher', 'lit/lit', 'lit/finetune',
    'l2/l2', 'scratch/scratch',
  ):  # fmt: skip
    _assert_same(_last_state(whole, phase), _last_state(stopped, phase))
  assert _records(whole) == _records(stopped)
  for name in ('teacher', 'lit', 'l2', 'scratch'):
    role = 'teacher' if name == 'teacher' else 'student'
    digests = [saved.describe(w / name / role) for w in (whole, stopped)]
    assert digests[0].digest == digests[1].digest
    assert digests[0].others == digests[1].others


@pytest.fixture(scope='module')
def taught(tmp_path_factory):
  """A workdir with a trained teacher, shared; see `_with_teacher`."""
  return tmp_path_factory.mktemp('taught') / 'run'


def _with_teacher(celeba, taught):
  if not taught.exists():
    code, _, err = celeba({'method': '', 'train_teacher.epochs': 1}, taught)
    assert code == 0, err
  return taught


@pytest.mark.slow
def test_a_given_teacher_brings_its_discriminator(celeba, taught, tmp_path):
  taught = _with_teacher(celeba, taught)
  given = {'teacher.checkpoint': taught, 'finetune.epochs': 1}
  code, _, err = celeba(given)
  assert code == 0, err
  teacher = saved.describe(taught / 'teacher/teacher')
  assert set(teacher.others) == {'discriminator'}
  rows = _rows(tmp_path / 'run')
  assert rows['teacher']['epochs'] == 0
  assert rows['teacher']['sheets']
  # The log names what each step computed, and no generator's NaN.
  text = (tmp_path / 'run/metrics.jsonl').read_text()
  assert 'NaN' not in text
  records = [json.loads(line) for line in text.splitlines()]
  tuned = [
    r for r in records if (r['phase'], r['split']) == ('finetune', 'train')
  ]
  assert {'critic/penalty', 'generator/fake', 'loss'} <= set(tuned[-1])


@pytest.mark.slow
def test_a_given_teacher_without_its_discriminator(celeba, taught, tmp_path):
  teacher = tmp_path / 'alone'
  shutil.copytree(_with_teacher(celeba, taught) / 'teacher/teacher', teacher)
  shutil.rmtree(teacher / 'others')
  code, _, err = celeba({'teacher.checkpoint': teacher})
  assert code == 2
  assert err == (
    "error: lit/finetune copies the teacher's discriminator, and the given "
    'teacher comes without it; train the teacher here, or leave that out of '
    'copy\n'
  )
  assert not (tmp_path / 'run/lit').exists()


@pytest.mark.slow
def test_a_discriminator_of_another_width(celeba, taught, tmp_path):
  taught = _with_teacher(celeba, taught)
  code, _, err = celeba(
    {'teacher.checkpoint': taught, 'discriminator_width': 3}
  )
  assert code == 2
  assert 'cannot read the discriminator of' in err and err.count('\n') == 1
  assert 'other shapes than are asked for' in err
  assert not (tmp_path / 'run/lit').exists()


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'n_critic': 0}, 'n_critic is 0 and discriminator_width 2; at least 1'),
    ({'gradient_penalty': -1.0}, 'gradient_penalty is -1.0; it must be at'),
    ({'scores': 'fid'}, "score 'fid'"),
    ({'scores': 'inception'}, 'scores name inception, whose weights do not'),
    (
      {'inception': 'a.pth'},
      "scores are 'attributes'; add inception to scores",
    ),
    (
      {'scores': 'inception', 'inception': 'a.pth,b.pth'},
      "inception 'a.pth,b.pth' gives weights twice; give one file",
    ),
    ({'scores': 'inception', 'inception': 'no.safetensors'}, 'no.safetensors'),
    ({'teacher.depth': 9}, 'stargan depth 9 is not of the form 2n+6'),
    ({'student.width': 3}, 'stem returns shape'),
    ({'lit.copy': 'stem,critic'}, "no part 'critic' to copy or freeze"),
    ({'lit.frozen': 'discriminator'}, "no part 'discriminator' to copy or"),
    ({'lit.output_loss': 'kd'}, "output_loss is 'kd', and the task compares"),
    ({'data.attributes': 'Man'}, 'Man'),
    ({'data.image_size': 30}, 'image_size 30'),
    ({'shift': 99}, 'shift is 99; it must lie in 0 to 32'),
    ({'repeats': 0}, 'repeats is 0; it must be at least 1'),
    ({'full_depth': 'x,'}, 'full_depth'),
    ({'method': 'judge'}, "'judge'"),
    ({'judge.depth': 9}, 'ResNet depth 9 is not of the form 6n+2'),
    ({'train_judge.epochs': 0}, 'judge/train_judge: epochs is 0; at least 1'),
    ({'train_judge.alpha': 0.5}, 'judge learns from labels alone'),
  ],
  ids=lambda v: '-'.join(v) if isinstance(v, dict) else '',
)
def test_bad_settings_stop_before_anything_is_trained(
  changes, words, celeba, tmp_path
):
  code, out, err = celeba(changes)
  assert (code, out) == (2, '')
  assert err.startswith('error: ') and err.count('\n') == 1
  assert words in err
  assert not (tmp_path / 'run/judge').exists()
