"""What a workdir holds, what a run left otherwise, and what it said."""

import collections
import json
import pathlib
import re
import signal
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from experiments.chaos.child import Ended
from experiments.chaos.moments import last_steps, seen
from lit_jax import records
from lit_jax.errors import UserError
from lit_jax.networks import saved

# Names, and beginnings of names, of what is another in every run.
_TIMED = ('train_seconds', 'data_share', 'latency')
REFUSED = 2
_GONE = 75
# What a run says that was stopped.
GO_ON = 'run the same command again to go on'
# Method, phase, step and split of a record.
Key = tuple[str, str, int, str]


class State(NamedTuple):
  """What a finished run left.

  Attributes:
    networks: what is known of each saved network, by its folder: the digest of
      its arrays, its row, and so on, without times.
    rows: of `results.json`, without times.
    records: of `metrics.jsonl`, in order.
    odd: number of lines there that are no records.
  """

  networks: Mapping[str, Mapping[str, Any]]
  rows: list[dict[str, Any]]
  records: list[records.Record]
  odd: int

  @property
  def per_epoch(self) -> dict[str, int]:
    """Steps of an epoch, by 'METHOD/PHASE'."""
    return {phase_of(r): round(r['step'] / r['epoch']) for r in self.records}


class Kept(NamedTuple):
  """What is saved at a moment, and must not be trained again.

  Attributes:
    networks: folders of the saved ones.
    steps: of the newest checkpoint of each phase, by 'METHOD/PHASE'.
    records: up to these steps.
  """

  networks: Collection[str]
  steps: Mapping[str, int]
  records: list[records.Record]


NOTHING = Kept((), {}, [])


def state(workdir: pathlib.Path) -> State:
  """Reads what a finished run left.

  Raises:
    OSError, ValueError, UserError: it is not whole.
  """
  if not (workdir / 'report.html').read_text().rstrip().endswith('</html>'):
    raise ValueError('report.html is not whole')
  rows = json.loads((workdir / 'results.json').read_text())['rows']
  lines = (workdir / records.METRICS).read_bytes().splitlines()
  found = records_of(workdir)
  return State(
    {name: network(workdir / name) for name in _networks(workdir)},
    [_untimed(row) for row in rows],
    found,
    len(lines) - len(found),
  )


def network(folder: pathlib.Path) -> dict[str, Any]:
  """What a saved network says of itself, after a look at all its arrays.

  The digests that it has of them are equal only if every bit is.
  """
  facts = saved.check(folder)
  others = sorted(path.name for path in folder.glob('others/*'))
  if others != sorted(facts.others):
    raise ValueError(f'beside {folder} are saved {others}')
  return vars(facts) | {'row': _untimed(facts.row)}


def records_of(workdir: pathlib.Path) -> list[records.Record]:
  """Those of `metrics.jsonl`."""
  return records.read(workdir / records.METRICS).records


def kept(workdir: pathlib.Path, harmed: str = '') -> Kept:
  """What is saved, but for the network or checkpoint of a harmed file."""
  there = [n for n in seen(workdir) if not harmed.startswith(f'{n}/')]
  steps = last_steps(there)
  return Kept(
    [name for name in _networks(workdir) if name in there],
    steps,
    [r for r in records_of(workdir) if r['step'] <= steps.get(phase_of(r), 0)],
  )


def _networks(workdir) -> list[str]:
  found = [path.parent for path in workdir.glob('*/*/network.json')]
  names = [folder.relative_to(workdir).as_posix() for folder in found]
  # Not those that are being written, or were put aside.
  return sorted(name for name in names if '.' not in name)


def phase_of(record: records.Record) -> str:
  """'METHOD/PHASE'."""
  return f'{record["method"]}/{record["phase"]}'


def key(record: records.Record) -> Key:
  """What a record is of."""
  return record['method'], record['phase'], record['step'], record['split']


def changed(
  before: list[records.Record], after: list[records.Record]
) -> set[Key]:
  """What the records are of that are in one of the two alone."""
  return {key(r) for r in before + after if r not in before or r not in after}


def _untimed(values):
  return {k: v for k, v in values.items() if not k.startswith(_TIMED)}


def lost(
  before: Kept, workdir: pathlib.Path, out: str, per_epoch: Mapping[str, int]
) -> list[str]:
  """What was saved before a run went on, and is gone or was made again.

  Args:
    before: what was saved.
    workdir: after the run has gone on.
    out: what it printed since; a line of it tells of every epoch.
    per_epoch: steps of an epoch, by 'METHOD/PHASE'.
  """
  found = []
  done = {name.partition('/')[0] for name in before.networks}
  for phase, epoch in re.findall(r'^(\S+/\S+) epoch (\d+)/', out, re.MULTILINE):
    step = int(epoch) * per_epoch.get(phase, 1)
    if step <= before.steps.get(phase, 0) or phase.partition('/')[0] in done:
      found.append(f'epoch {epoch} of {phase} was trained again')
  after = records_of(workdir)
  if gone := [record for record in before.records if record not in after]:
    found.append(f'{len(gone)} records of metrics.jsonl are gone')
  return found


def differences(
  reference: State,
  before: Kept,
  workdir: pathlib.Path,
  spared: Collection[Key] = (),
) -> list[str]:
  """What a run left otherwise than the undisturbed one.

  Args:
    reference: of the undisturbed run.
    before: what was saved when the run went on; with the record of a stop
      within an epoch, which splits that epoch's own.
    workdir: of the run, finished too.
    spared: records that were harmed, of which nothing is expected.
  """
  try:
    found = state(workdir)
  except (OSError, ValueError, UserError) as error:
    return [f'what is left cannot be read: {error}']
  problems = []
  for name in sorted({*reference.networks, *found.networks}):
    one, other = reference.networks.get(name), found.networks.get(name)
    if one is None or other is None:
      problems.append(f'{name} is {"missing" if other is None else "new"}')
    elif one != other:
      parts = [part for part in one if one[part] != other[part]]
      problems.append(f'{", ".join(parts)} of {name} differ')
  if found.rows != reference.rows:
    problems.append('the rows of results.json differ')
  if found.odd and not spared:
    problems.append(f'{found.odd} lines of metrics.jsonl are no records')
  return problems + _of_records(reference, before, found, {*spared})


def _of_records(reference, before, found, spared):
  wanted = {key(record): record for record in reference.records}
  there = {key(record): record for record in found.records}
  times = collections.Counter(map(key, found.records))
  stops = {
    key(r): phase_of(r)
    for r in before.records
    if r['split'] == 'train' and key(r) not in wanted
  }

  def differs(k):
    one, other = wanted[k], there[k]
    halved = k[3] == 'train' and phase_of(one) in stops.values()
    return not halved and _untimed(one) != _untimed(other)

  groups = {
    'missing': wanted.keys() - there.keys(),
    'there more than once': {k for k, n in times.items() if n > 1},
    'none of the undisturbed run': there.keys() - wanted.keys() - stops.keys(),
    'otherwise': filter(differs, wanted.keys() & there.keys()),
  }
  return [
    f'{len(keys)} records of metrics.jsonl are {what}, such as {min(keys)}'
    for what, group in groups.items()
    if (keys := {*group} - spared)
  ]


def said(ended: Ended, codes: Collection[int]) -> list[str]:
  """What is wrong with how a command ended, by code and by words.

  Args:
    ended: the command.
    codes: that it may end with.
  """
  if ended.code is None:
    return ['it did not end']
  problems = []
  if 'Traceback' in ended.err + ended.out:
    problems.append('a traceback')
  if ended.code not in codes:
    problems.append(f'exit code {ended.code}')
  told = ended.err.strip().splitlines()
  if ended.code == REFUSED and not _is_line(told):
    problems.append(f'{len(told)} lines, and not one line of error')
  if ended.code > 128 and GO_ON not in ended.err:
    problems.append('does not say how to go on')
  for i, other in enumerate(ended.others, 1):
    # What the first one says of bad input, it says for all.
    if other.code != REFUSED or other.err:
      problems += [f'process {i}: {problem}' for problem in said(other, codes)]
  return problems


def _is_line(told):
  return len(told) == 1 and told[0].startswith('error: ')


def gone(ended: Ended, aborts: bool) -> list[str]:
  """What is wrong with how a process ended when another one was gone.

  Args:
    ended: the process that was left.
    aborts: whether JAX may have ended it first, which then says what it likes.
  """
  if aborts and ended.code == -signal.SIGABRT:
    return []
  if ended.code is None:
    return ['the other process did not end']
  problems = []
  if ended.code != _GONE:
    problems.append(f'the other process has exit code {ended.code}')
  last = ended.err.strip().splitlines()[-1:]
  if not _is_line(last) or 'another process of this run is gone' not in last[0]:
    problems.append('the other process does not say that one is gone')
  return problems
