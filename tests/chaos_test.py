"""The fault harness: what it draws, notices and reports."""

import json
import os
import random
import signal

import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.chaos import __main__ as command
from experiments.chaos import compare, harms, processes, trials
from experiments.chaos.harms import Event
from experiments.chaos.processes import Ended
from experiments.chaos.sites import FINISHED, HALF, Site, Task
from experiments.chaos.trials import Outcome
from lit_jax.errors import UserError

# As an undisturbed run of two methods shows it, a second apart.
NAMES = (
  '', 'config.json', 'kd', 'kd/kd', 'metrics.jsonl', 'kd/kd/4.part', 'kd/kd/4',
  'kd/kd/8.part', 'kd/kd/8', 'kd/student.part', 'kd/student.part/arrays',
  'kd/student', 'lit', 'lit/lit', 'lit/lit/8', 'lit/student', 'tfidf/row.json',
  'results.json', 'report.html', 'end',
)  # fmt: skip
EVENTS = [Event(name, float(i)) for i, name in enumerate(NAMES)]


# Moments.


def test_stages_of_a_run():
  run = harms.stretches(EVENTS)
  assert all(stretch.seconds == 1.0 for stretch in run)
  stages = {stretch.event: stretch.stage for stretch in run}
  assert list(stages) == list(NAMES[:-1])
  assert [stages[name] for name in NAMES[:-1]] == [
    *['start'] * 3, *['training'] * 2, 'saving', 'training', 'saving', 'border',
    *['saving'] * 2, *['border'] * 2, 'training', 'border', *['report'] * 4,
  ]  # fmt: skip


def test_moments_are_drawn_by_the_seed():
  run = harms.stretches(EVENTS)
  for stage in harms.STAGES:
    drawn = [harms.moment(run, stage, random.Random(i)) for i in range(20)]
    assert drawn[3] == harms.moment(run, stage, random.Random(3))
    assert len(set(drawn)) == 20
    assert {moment.event for moment in drawn} <= {
      stretch.event for stretch in run if stretch.stage == stage
    }
    assert all(0 <= moment.seconds <= 1 for moment in drawn)


def test_what_is_seen_of_a_workdir(tmp_path):
  for name in ('kd/kd/4.orbax-checkpoint-tmp-7/default', 'cache/x', 'kd/kd/8'):
    (tmp_path / name).mkdir(parents=True)
  (tmp_path / '.lock').touch()
  assert harms.seen(tmp_path) == {'kd', 'kd/kd', 'kd/kd/4.part', 'kd/kd/8'}
  assert harms.seen(tmp_path / 'none') == set()


# Damages.


@pytest.mark.parametrize(
  'path, kind, may_refuse',
  [
    ('config.json', 'config.json', True),
    ('metrics.jsonl', 'metrics.jsonl', False),
    ('tfidf/row.json', 'row.json', False),
    ('kd/student/network.json', 'network.json', False),
    ('kd/student/arrays/ocdbt.process_0/d/0c', 'network: arrays', False),
    ('kd/student/arrays/manifest.ocdbt', 'network: metadata', False),
    ('lit/lit/8/default/d/0c', 'newest checkpoint: arrays', False),
    ('lit/lit/8/_CHECKPOINT_METADATA', 'newest checkpoint: metadata', False),
    ('lit/lit/12/default/d/0c', 'checkpoint: arrays', False),
    ('tensorboard/kd/kd/events.1', 'event file', False),
    ('cache/jit_f-0c-cache', 'compiled program', False),
    ('pictures/kd/kd/a-0001.png', 'picture', False),
    ('what/nobody/knows', 'other file', True),
  ],
)
def test_kinds_of_files(path, kind, may_refuse):
  found = harms.kind_of(path, 'lit/lit/8')
  assert (found.name, found.may_refuse) == (kind, may_refuse)


def test_harms_do_what_they_say():
  content = bytes(range(9))
  done = {name: harm(content, random.Random(0)) for name, harm in
          harms.HARMS.items()}  # fmt: skip
  assert done['emptied'] == b''
  assert done['cut in half'] == content[:4]
  differing = [a ^ b for a, b in zip(content, done['one bit flipped'],
                                     strict=True) if a != b]  # fmt: skip
  assert len(differing) == 1 and differing[0].bit_count() == 1


def test_every_kind_is_harmed_in_every_way():
  files = {
    HALF: {'config.json': 9, 'kd/kd/4/d/a': 0, 'kd/kd/4/d/b': 9},
    FINISHED: {'config.json': 9, 'results.json': 9},
  }
  newest = {HALF: 'kd/kd/4', FINISHED: 'lit/lit/8'}
  drawn = harms.damages(files, newest, random.Random(0))
  assert drawn == harms.damages(files, newest, random.Random(0))
  assert len({(d.state, d.kind, d.harm) for d in drawn}) == len(drawn) == 12
  assert all(d.path in files[d.state] for d in drawn)
  # Bits are all alike, and so this one is in the larger file.
  (flipped,) = (
    d for d in drawn if d.harm == harms.FLIPPED and d.path.startswith('kd/')
  )
  assert flipped.path == 'kd/kd/4/d/b'


# What is compared.


def _record(step, split='test', **values):
  names = {'method': 'kd', 'phase': 'kd', 'step': step, 'split': split}
  about = {'epoch': step / 4, 'loss': 0.5, 'train_seconds': os.urandom(1)[0]}
  return json.dumps({**names, **about, **values}).encode()


RECORDS = tuple(
  _record(s, split) for s in (4, 8) for split in ('train', 'test')
)


@pytest.fixture
def finished(tmp_path):
  """A finished workdir, and how another like it is made."""

  def make(name, lines=RECORDS, accuracy=0.5, row=0.5, bit=0):
    workdir = tmp_path / name
    network = workdir / 'kd' / 'student'
    network.mkdir(parents=True)
    weights = np.ones(3, np.float32)
    weights.view(np.uint32)[1] ^= bit
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(network / 'arrays', {'params': {'w': weights}})
    facts = {'precision': 'fp32', 'row': {'accuracy': accuracy}}
    (network / 'network.json').write_text(json.dumps(facts))
    for step in (4, 8):
      (workdir / 'kd' / 'kd' / str(step)).mkdir(parents=True)
    (workdir / 'metrics.jsonl').write_bytes(b''.join(r + b'\n' for r in lines))
    row = {'method': 'kd', 'accuracy': row, 'latency_ms': os.urandom(1)[0]}
    (workdir / 'results.json').write_text(json.dumps({'rows': [row]}))
    (workdir / 'report.html').write_text('<html></html>')
    return workdir

  return make


@pytest.mark.parametrize(
  'changes, problem',
  [
    ({}, ''),
    ({'bit': 1}, '1 parts of kd/student differ: arrays'),
    ({'accuracy': 0.25}, 'parts of kd/student differ: network.json'),
    ({'row': 0.25}, 'the rows of results.json differ'),
    ({'lines': RECORDS[:-1]}, '1 records of metrics.jsonl are missing'),
    ({'lines': RECORDS + RECORDS[:1]}, 'are there twice'),
    ({'lines': (*RECORDS, b'{"method"')}, 'are none of the undisturbed run'),
    ({'lines': (*RECORDS[:3], _record(8, loss=1.0))}, 'have other numbers'),
  ],
)
def test_what_differs(finished, changes, problem):
  reference = compare.state(finished('one'))
  found = compare.differences(reference, finished('other', **changes))
  assert len(found) == bool(problem)
  assert problem in ''.join(found)
  assert reference.per_epoch == {'kd/kd': 4}


def test_what_was_harmed_is_spared(finished):
  reference = compare.state(finished('one'))
  lines = (RECORDS[1], RECORDS[2], b'{', RECORDS[3])
  spared = compare.changed(RECORDS, lines)
  assert spared == {('kd', 'kd', 4, 'train'), None}
  other = finished('other', lines)
  assert compare.differences(reference, other, spared=spared) == []
  # A stop within an epoch, which splits its record.
  stopped = _record(6, 'train'), _record(8, 'train', loss=1.0)
  other = finished('stopped', (*RECORDS[:2], *stopped, RECORDS[3]))
  more = {('kd', 'kd', 6, 'train')}
  assert compare.differences(reference, other, more) == []
  assert len(compare.differences(reference, other)) == 2


def test_what_cannot_be_read(finished):
  reference = compare.state(finished('one'))
  other = finished('other')
  (other / 'report.html').write_text('<html>')
  (problem,) = compare.differences(reference, other)
  assert problem == 'what is left cannot be read: report.html is not whole'


def test_what_was_lost(finished):
  workdir, per_epoch = finished('run'), {'kd/kd': 4}
  before = compare.kept(workdir)
  assert before.steps == {'kd/kd': 8} and before.lines == RECORDS
  assert compare.lost(before, workdir, '', per_epoch) == []
  (workdir / 'metrics.jsonl').write_bytes(RECORDS[0])
  out = 'kd/kd epoch 2/3  test loss 1\nlit/lit epoch 1/1  test loss 1\n'
  lost = [
    'epoch 2 of kd/kd was trained again',
    '3 records of metrics.jsonl are gone',
  ]
  assert compare.lost(before, workdir, out, per_epoch) == lost
  # With its network, no epoch of a method may be trained.
  assert compare.lost(before, workdir, out.replace('2/', '3/'), per_epoch)
  before = before._replace(networks=())
  assert compare.lost(before, workdir, out, per_epoch) == lost
  out = out.replace('2/', '3/')
  assert compare.lost(before, workdir, out, per_epoch) == lost[1:]


def test_a_harmed_network_or_checkpoint_may_be_made_again(finished):
  workdir = finished('run')
  assert compare.kept(workdir, 'kd/student/network.json').networks == []
  before = compare.kept(workdir, 'kd/kd/8/default')
  assert before.steps == {'kd/kd': 4} and before.lines == RECORDS[:2]


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
    (None, '', ['had not ended after 3 s']),
  ],
)
def test_what_a_command_said(code, err, problems):
  assert compare.said(Ended(code, '', err, 3.0), {0, 2, 143}) == problems


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
  record = dict(method='kd', phase='kd', step=step, split='test')
  record['epoch'] = step / 4
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
write(run / 'report.html', '<html></html>')
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
  """The site of a command with a bad habit, or with none."""
  script = tmp_path / 'command.py'
  script.write_text(COMMAND)
  monkeypatch.setattr(
    compare, 'arrays', lambda network: {'w': (network / 'arrays/w').read_text()}
  )

  def make(habit='', prepared=True):
    made = Site(tmp_path / 'site', Task('fake', (str(script), habit)), 0)
    if prepared:
      made.prepare()
    return made

  return make


def _problems(outcomes):
  assert not any(outcome.skipped for outcome in outcomes)
  return '\n'.join(' '.join(outcome.problems) for outcome in outcomes)


def test_a_run_that_goes_on_survives(site):
  own = site()
  assert {stretch.stage for stretch in own.stretches} == {*harms.STAGES}
  kills = [trials.trial(own, 'kill', number) for number in range(5)]
  asked = [trials.trial(own, 'sigterm', number) for number in range(3)]
  assert not _problems([*kills, *asked]).strip()
  for outcome, stage in zip(kills, harms.STAGES, strict=True):
    assert outcome.what.startswith('killed ') and f'({stage})' in outcome.what
  assert not (own.folder / 'failed').exists()
  # What is there is taken as it is.
  assert site().events == own.events


@pytest.mark.parametrize(
  'habit, problem',
  [
    ('forgets', 'of kd/kd was trained again'),
    ('stumbles', 'a traceback exit code 1'),
    ('drifts', '1 parts of kd/student differ: w'),
  ],
)
def test_a_run_that_does_not_go_on_fails(habit, problem, site, monkeypatch):
  own = site()
  own.task = own.task._replace(command=(own.task.command[0], habit))
  # Killed at a checkpoint, which the run would go on from.
  moment = harms.Moment('training', 'kd/kd/8', 0.01)
  monkeypatch.setattr(own, 'moment', lambda stages, source: moment)
  outcome = trials.trial(own, 'kill', 0)
  assert problem in _problems([outcome])
  kept = own.folder / 'failed' / 'kill-0'
  assert outcome.what.endswith(f'(training); kept in {kept}')
  assert (kept / 'run' / 'kd' / 'kd' / '8').is_dir()
  assert (kept / 'logs' / '2.err').is_file()


def test_a_harmed_file_that_is_not_noticed(site):
  own = site()
  found = own.damages()
  (number,) = (
    i for i, one in enumerate(found)
    if one[0] == FINISHED and one.path == 'metrics.jsonl'
    and one.harm == 'cut in half'
  )  # fmt: skip
  outcome = trials.trial(own, 'damage', number)
  # The command reads its records without a look at whether they are whole.
  assert 'a traceback' in _problems([outcome])
  assert 'metrics.jsonl cut in half (metrics.jsonl, finished)' in outcome.what


def test_undisturbed_runs_that_differ_end_it(site, monkeypatch):
  own = site(prepared=False)
  monkeypatch.setattr(compare, 'arrays', lambda network: {'w': os.urandom(8)})
  with pytest.raises(UserError, match='two undisturbed runs of fake differ'):
    own.prepare()


def test_a_child_that_outstays_is_ended(tmp_path):
  sleep = ('-c', 'import time; time.sleep(60)')
  with processes.started(sleep, tmp_path / '1') as child:
    child.ask()
    assert child.wait().code == -signal.SIGTERM
  with processes.started(sleep, tmp_path / '2') as child:
    assert child.wait(0.1).code is None
    assert not child.runs


# What is printed.


def test_the_table():
  good, bad = Outcome('killed'), Outcome('killed', ['a traceback'])
  skipped = Outcome('', skipped='no root')
  found = {
    ('kill', 'images'): [good, bad, good],
    ('full', 'images'): [skipped],
  }
  *rows, last = command.table(found).splitlines()
  assert rows[2].startswith('| kill | images | 2/3 | after kill -9 ')
  assert rows[3].startswith('| full | images | skipped | ')
  assert last == '| all | | 2/3 | |'
