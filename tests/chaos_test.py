"""The fault harness: what it draws, notices and reports."""

import json
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest

from experiments.chaos import __main__ as command
from experiments.chaos import child, compare, damages, faults, moments
from experiments.chaos.child import Ended
from experiments.chaos.faults import Outcome, trial
from experiments.chaos.site import FINISHED, HALF, Site, Task
from lit_jax import records
from lit_jax.errors import UserError
from lit_jax.networks import saved

# Moments.

# As an undisturbed run of two methods shows it, a second apart.
NAMES = (
  '', 'config.json', 'kd', 'kd/kd', 'metrics.jsonl', 'kd/kd/4.part', 'kd/kd/4',
  'kd/kd/8.part', 'kd/kd/8', 'kd/student.part', 'kd/student.part/arrays',
  'kd/student', 'lit', 'lit/lit', 'lit/lit/8', 'lit/student', 'tfidf/row.json',
  'results.json', 'report.html', 'end',
)  # fmt: skip
RUN = moments.stretches([(name, float(i)) for i, name in enumerate(NAMES)])


def test_stages_of_a_run():
  assert [stretch.path for stretch in RUN] == [*NAMES[:-1]]
  assert all(stretch.seconds == 1.0 for stretch in RUN)
  assert [stretch.stage for stretch in RUN] == [
    *['start'] * 3, *['training'] * 2, 'saving', 'training', 'saving', 'border',
    *['saving'] * 2, *['border'] * 2, 'training', 'border', *['report'] * 4,
  ]  # fmt: skip


@pytest.mark.parametrize('stage', moments.STAGES)
def test_moments_are_drawn_by_the_seed(stage):
  drawn = [moments.draw(RUN, [stage], random.Random(i)) for i in range(20)]
  assert drawn[3] == moments.draw(RUN, [stage], random.Random(3))
  assert len({*drawn}) == 20 and {own.stage for own in drawn} == {stage}
  assert all(0 <= own.seconds <= 1 for own in drawn)


def test_what_is_seen_of_a_workdir(tmp_path):
  for name in ('kd/kd/4.orbax-checkpoint-tmp/state', 'cache/x', 'kd/kd/8'):
    (tmp_path / name).mkdir(parents=True)
  (tmp_path / '.lock').touch()
  assert moments.seen(tmp_path) == {'kd', 'kd/kd', 'kd/kd/4.part', 'kd/kd/8'}
  assert moments.seen(tmp_path / 'none') == set()


# Damages.


@pytest.mark.parametrize(
  'path, kind',
  [
    ('config.json', 'config.json'),
    ('metrics.jsonl', 'metrics.jsonl'),
    ('tfidf/row.json', "baseline's row.json"),
    ('kd/student/network.json', "network's network.json"),
    ('kd/student/arrays/ocdbt.process_0/d/0c', "network's arrays"),
    ('kd/student/others/critic/d/0c', "network's arrays"),
    ('kd/student/arrays/manifest.ocdbt', "network's metadata"),
    ('lit/lit/8/state/d/0c', "newest checkpoint's arrays"),
    ('lit/lit/8/checksums/metadata', "newest checkpoint's checksums"),
    ('lit/lit/8/_CHECKPOINT_METADATA', "newest checkpoint's metadata"),
    ('lit/lit/12/state/ocdbt.process_0/d/0c', "checkpoint's arrays"),
    ('lit/lit/12/metrics/metrics', "checkpoint's metadata"),
    ('tensorboard/kd/kd/events.1', 'event file'),
    ('cache/jit_f-0c-cache', 'compiled program'),
    ('pictures/kd/kd/a-0001.png', 'picture'),
    ('what/nobody/knows', 'other file'),
  ],
)
def test_kinds_of_files(path, kind):
  found = damages.kind_of(path, 'lit/lit/8')
  assert found.name == kind
  assert found.may_refuse == (kind in ('config.json', 'other file'))


def test_harms_do_what_they_say():
  content = bytes(range(9))
  emptied, cut, flipped = (
    harm(content, random.Random(0)) for harm in damages.HARMS.values()
  )
  assert (emptied, cut) == (b'', content[:4])
  changed = [a ^ b for a, b in zip(content, flipped, strict=True) if a != b]
  assert len(changed) == 1 and changed[0].bit_count() == 1


def test_every_kind_is_harmed_in_every_way():
  sizes = {
    HALF: {'config.json': 9, 'kd/kd/4/state/a': 1, 'kd/kd/4/state/b': 10**9},
    FINISHED: {'config.json': 9, 'results.json': 9, 'kd/empty': 0},
  }
  newest = {HALF: 'kd/kd/4', FINISHED: 'lit/lit/8'}
  found = damages.drawn(sizes, newest, random.Random(0))
  assert found == damages.drawn(sizes, newest, random.Random(0))
  assert len({(d.state, d.kind, d.harm) for d in found}) == len(found) == 12
  assert all(sizes[d.state][d.path] for d in found)
  # Every bit is as likely as any other, and so that of the larger file.
  (flipped,) = (
    d for d in found if d.harm == damages.FLIPPED and d.path.startswith('kd/')
  )
  assert flipped.path == 'kd/kd/4/state/b'


# What is compared.


def _record(step, split='test', **values):
  names = {'method': 'kd', 'phase': 'kd', 'step': step, 'split': split}
  about = {'epoch': step / 4, 'loss': 0.5, 'train_seconds': os.urandom(1)[0]}
  return names | about | values


RECORDS = [_record(s, split) for s in (4, 8) for split in ('train', 'test')]
OTHER = _record(8, 'train', loss=1.0)


@pytest.fixture
def finished(tmp_path):
  """A finished workdir, and how another like it is made."""

  def make(name='run', lines=RECORDS, accuracy=0.5, row=0.5, bit=0, page='>'):
    workdir = tmp_path / name
    weights = np.ones(3, np.float32)
    weights.view(np.uint32)[1] ^= bit
    facts = saved.Facts(None, 'noise', [], {}, 'fp32', '', {'acc': accuracy})
    saved.save(workdir / 'kd' / 'student', facts, {'params': {'w': weights}})
    for step in (4, 8):
      (workdir / 'kd' / 'kd' / str(step)).mkdir(parents=True)
    records.write(workdir / records.METRICS, lines)
    row = {'method': 'kd', 'accuracy': row, 'latency_ms': os.urandom(1)[0]}
    (workdir / 'results.json').write_text(json.dumps({'rows': [row]}))
    (workdir / 'report.html').write_text(f'<html></html{page}')
    return workdir

  return make


@pytest.mark.parametrize(
  'changes, problem',
  [
    ({}, ''),
    ({'bit': 1}, 'digest of kd/student differ'),
    ({'accuracy': 0.25}, 'row of kd/student differ'),
    ({'row': 0.25}, 'the rows of results.json differ'),
    ({'lines': RECORDS[:-1]}, '1 records of metrics.jsonl are missing'),
    ({'lines': RECORDS + RECORDS[:1]}, 'are there more than once'),
    (
      {'lines': [*RECORDS, {'method': 'kd'}]},
      '1 lines of metrics.jsonl are no',
    ),
    ({'lines': [*RECORDS[:2], OTHER, RECORDS[3]]}, 'are otherwise'),
    ({'lines': [*RECORDS, _record(6)]}, 'are none of the undisturbed run'),
    ({'page': ''}, 'cannot be read: report.html is not whole'),
  ],
)
def test_what_differs(finished, changes, problem):
  reference, other = compare.state(finished()), finished('other', **changes)
  found = compare.differences(reference, compare.NOTHING, other)
  assert len(found) == bool(problem) and problem in ''.join(found)
  assert reference.per_epoch == {'kd/kd': 4}


def test_what_was_harmed_is_spared(finished):
  reference = compare.state(finished())
  harmed = [*RECORDS[1:], {'method': 'kd'}]
  spared = compare.changed(RECORDS, harmed[:-1])
  assert spared == {('kd', 'kd', 4, 'train')}
  other = finished('other', harmed)
  assert not compare.differences(reference, compare.NOTHING, other, spared)


def test_a_stop_splits_the_record_of_its_epoch(finished):
  reference = compare.state(finished())
  stop = _record(6, 'train')
  other = finished('other', [*RECORDS[:2], stop, OTHER, RECORDS[3]])
  before = compare.Kept((), {'kd/kd': 6}, [stop])
  assert not compare.differences(reference, before, other)
  assert len(compare.differences(reference, compare.NOTHING, other)) == 2


def test_what_was_lost(finished):
  workdir, per_epoch = finished(), {'kd/kd': 4}
  before = compare.kept(workdir)
  assert before.steps == {'kd/kd': 8} and before.records == RECORDS
  assert not compare.lost(before, workdir, '', per_epoch)
  records.write(workdir / records.METRICS, RECORDS[:1])
  gone = '3 records of metrics.jsonl are gone'
  for networks, epoch, again in (
    ((), 2, True), ((), 3, False), (['kd/student'], 3, True),
  ):  # fmt: skip
    out = (
      f'kd/kd epoch {epoch}/3  test loss 1\nlit/lit epoch 1/1  test loss 1\n'
    )
    found = compare.lost(
      before._replace(networks=networks), workdir, out, per_epoch
    )
    trained = [f'epoch {epoch} of kd/kd was trained again'] if again else []
    assert found == [*trained, gone]


def test_a_harmed_network_or_checkpoint_may_be_made_again(finished):
  workdir = finished()
  assert compare.kept(workdir, 'kd/student/network.json').networks == []
  before = compare.kept(workdir, 'kd/kd/8/state/d/0')
  assert before.steps == {'kd/kd': 4} and before.records == RECORDS[:2]


@pytest.mark.parametrize(
  'code, err, problems',
  [
    (0, 'going on from checkpoint 4\n', []),
    (0, 'Traceback (most recent call last):\n', ['a traceback']),
    (2, 'error: no room\n', []),
    (2, 'error: no room\nand more\n', ['2 lines, and not one line of error']),
    (143, f'soon\nstopped; {compare.GO_ON}\n', []),
    (143, 'soon\n', ['does not say how to go on']),
    (-11, '', ['exit code -11']),
    (None, '', ['it did not end']),
  ],
)
def test_what_a_command_said(code, err, problems):
  assert compare.said(Ended(code, '', err), {0, 2, 143}) == problems


# A command that is no training, but goes on as one.

COMMAND = """
import json, os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[-1].partition('=')[2])
habit, stops = sys.argv[1], []
signal.signal(signal.SIGTERM, lambda *args: stops.append(1))
(run / 'cache').mkdir(exist_ok=True)
phase, network = run / 'kd' / 'kd', run / 'kd' / 'student'
phase.mkdir(parents=True, exist_ok=True)

def write(path, text):
  part = path.with_name('.part')
  part.write_text(text)
  os.replace(part, path)

steps = [int(p.name) for p in phase.iterdir() if p.name.isdecimal()]
first = max(steps, default=0)
if steps and habit == 'stumbles':
  raise ValueError(steps)
if habit == 'forgets':
  first = 0
log = run / 'metrics.jsonl'
lines = log.read_text().splitlines() if log.exists() else []
lines = [one for one in lines if json.loads(one)['step'] <= first]
for step in range(first + 4, 17, 4):
  time.sleep(0.1)
  record = dict(method='kd', phase='kd', split='test')
  record.update(step=step, epoch=step / 4)
  lines.append(json.dumps(record))
  write(log, '\\n'.join(lines) + '\\n')
  part = phase / f'{step}.orbax-checkpoint-tmp-0'
  part.mkdir(exist_ok=True)
  (part / 'state').write_text(str(step))
  time.sleep(0.05)
  if not (phase / str(step)).exists():
    part.rename(phase / str(step))
  print(f'kd/kd epoch {step // 4}/4  test loss 1', flush=True)
  if stops:
    print('stopped; run the same command again to go on', file=sys.stderr)
    sys.exit(143)
if not network.exists():
  part = network.with_name('student.part')
  (part / 'arrays').mkdir(parents=True, exist_ok=True)
  drifted = first if habit == 'drifts' else 0
  (part / 'arrays' / 'w').write_text(f'{16 + drifted}')
  (part / 'network.json').write_text(json.dumps({'row': {}}))
  time.sleep(0.05)
  part.rename(network)
time.sleep(0.05)
write(run / 'results.json', json.dumps({'rows': [{'method': 'kd'}]}))
time.sleep(0.2)  # long enough to be hit on a busy machine
write(run / 'report.html', '<html></html>')
time.sleep(0.2)
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
  """The site of that command, with a bad habit or with none."""
  script = tmp_path / 'command.py'
  script.write_text(COMMAND)
  monkeypatch.setattr(
    compare, 'network', lambda folder: {'w': (folder / 'arrays/w').read_text()}
  )

  def make(habit=''):
    return Site(tmp_path / 'site', Task('fake', (str(script), habit)), 0)

  return make


def test_a_run_that_goes_on_survives(site):
  own = site()
  own.prepare()
  assert {stretch.stage for stretch in own.stretches} == {*moments.STAGES}
  for kind, count in (('kill', 5), ('sigterm', 2)):
    for number in range(count):
      outcome = trial(own, kind, number)
      assert not outcome.problems and not outcome.skipped
      if kind == 'kill':
        assert f'({moments.STAGES[number]})' in outcome.what
  assert not (own.folder / 'failed').exists()
  # What is there is taken as it is.
  again = site()
  again.prepare()
  assert again.stretches == own.stretches


@pytest.mark.skipif(
  not shutil.which('strace'),
  reason='calls are delayed by strace: install the Debian package strace',
)
def test_calls_that_write_through_are_delayed(site, monkeypatch):
  monkeypatch.setattr(faults, '_DELAYS', (0.2,))
  own = site()
  own.undisturbed(None)
  begin = time.monotonic()
  outcome = trial(own, 'slow', 0)
  assert not outcome.problems and not outcome.skipped
  # Four checkpoints, four times the log, a network, results and page.
  assert time.monotonic() - begin > 11 * 0.2


@pytest.mark.parametrize(
  'habit, problem',
  [
    ('forgets', 'of kd/kd was trained again'),
    ('stumbles', 'a traceback exit code 1'),
    ('drifts', 'w of kd/student differ'),
  ],
)
def test_a_run_that_does_not_go_on_fails(habit, problem, site, monkeypatch):
  own = site()
  own.undisturbed(None)
  own.task = site(habit).task
  # Killed at a checkpoint, which the run would go on from.
  moment = moments.Moment('training', 'kd/kd/8', 0.01)
  monkeypatch.setattr(own, 'moment', lambda stages, source: moment)
  outcome = trial(own, 'kill', 0)
  assert problem in ' '.join(outcome.problems)
  kept = own.folder / 'failed' / 'kill-0'
  assert outcome.what.endswith(f'(training); kept in {kept}')
  assert (kept / 'run' / 'kd' / 'kd' / '8').is_dir()
  assert (kept / 'logs' / '2.err').is_file()


def test_a_harmed_file_that_is_not_noticed(site):
  own = site()
  own.prepare()
  (number,) = (
    i for i, one in enumerate(own.damages())
    if one[:2] == (FINISHED, 'metrics.jsonl') and one.harm == 'cut in half'
  )  # fmt: skip
  outcome = trial(own, 'damage', number)
  # The command reads its records without a look at whether they are whole.
  assert 'a traceback' in outcome.problems
  assert 'metrics.jsonl cut in half (metrics.jsonl, finished)' in outcome.what


def test_undisturbed_runs_that_differ_end_it(site, monkeypatch):
  monkeypatch.setattr(compare, 'network', lambda folder: {'w': os.urandom(8)})
  with pytest.raises(UserError, match='two undisturbed runs of fake differ'):
    site().prepare()


def test_a_child_that_outstays_is_ended(tmp_path):
  sleep = ('-c', 'import time; time.sleep(60)')
  with child.Child(sleep, tmp_path / '1') as one:
    one.ask()
    assert one.wait().code == -signal.SIGTERM
  with child.Child(sleep, tmp_path / '2') as one:
    assert one.wait(0.1).code is None
    assert not one.runs


@pytest.mark.skipif(os.geteuid() != 0, reason='only root is bound by setpriv')
def test_root_is_bound_by_rights(tmp_path):
  tmp_path.chmod(0o555)
  write = ('-c', f'open({str(tmp_path / "file")!r}, "w")')
  (tmp_path.parent / 'logs').mkdir(exist_ok=True)
  with child.Child(write, tmp_path.parent / 'logs' / '1') as one:
    assert 'PermissionError' in one.wait().err


# A run that is one.


def test_a_killed_run_of_the_images_task(tmp_path):
  words = command.TASKS['images'].command
  own = Site(tmp_path, Task('images', (*words, '--config.method=scratch')), 0)
  own.undisturbed(None)
  outcome = trial(own, 'kill', 2)
  assert outcome.what.startswith('killed ') and not outcome.problems, outcome


# What is printed.


def test_the_table():
  good, bad = Outcome('killed'), Outcome('killed', ['a traceback'])
  found = {
    ('kill', 'images'): [good, bad, good],
    ('full', 'images'): [Outcome('', skipped='no root')],
  }
  assert command.table(found).splitlines()[2:] == [
    '| kill | images | 2/3 |', '| full | images | skipped |', '| all | | 2/3 |'
  ]  # fmt: skip
