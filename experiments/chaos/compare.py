"""What a workdir holds, what was lost of it, and what a command said."""

import collections
import hashlib
import json
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.chaos import harms
from experiments.chaos.processes import Ended
from lit_jax.errors import first_line

# Of rows and records: what depends on time, and is another in every run.
_TIMED = ('train_seconds', 'data_share', 'latency')
# Method, phase, step and split of a record; None of what is no record.
Key = tuple[str, str, int, str] | None
REFUSED = 2
# What a run says that was stopped.
GO_ON = 'run the same command again to go on'


class State(NamedTuple):
  """What a finished run left.

  Attributes:
    networks: digests of the arrays of each saved network and of what is told
      of it, by its folder.
    rows: of `results.json`, without times.
    lines: of `metrics.jsonl`.
  """

  networks: Mapping[str, Mapping[str, str]]
  rows: list[dict[str, Any]]
  lines: tuple[bytes, ...]

  @property
  def per_epoch(self) -> dict[str, int]:
    """Steps of an epoch, by 'METHOD/PHASE'."""
    records = [json.loads(line) for line in self.lines]
    return {
      f'{r["method"]}/{r["phase"]}': round(r['step'] / r['epoch'])
      for r in records
    }


def state(workdir: pathlib.Path) -> State:
  """Reads what a finished run left; any error where it is not whole."""
  if '</html>' not in (workdir / 'report.html').read_text():
    raise ValueError('report.html is not whole')
  rows = json.loads((workdir / 'results.json').read_text())['rows']
  return State(
    {
      name: {**arrays(workdir / name), **_told(workdir / name)}
      for name in _networks(workdir)
    },
    [_untimed(row) for row in rows],
    lines(workdir),
  )


def _untimed(values):
  return {k: v for k, v in values.items() if not k.startswith(_TIMED)}


def _told(network) -> dict[str, str]:
  facts = json.loads((network / 'network.json').read_text())
  return {'network.json': str(facts | {'row': _untimed(facts['row'])})}


def _networks(workdir) -> list[str]:
  found = [path.parent for path in workdir.glob('*/*/network.json')]
  names = [folder.relative_to(workdir).as_posix() for folder in found]
  # Not those that are being written, or were put aside.
  return sorted(name for name in names if '.' not in name)


def arrays(network: pathlib.Path) -> dict[str, str]:
  """The digest of every array of a saved network, by its path."""
  found = {}
  with ocp.StandardCheckpointer() as checkpointer:
    for folder in (network / 'arrays', *network.glob('others/*')):
      tree = checkpointer.restore(folder.resolve())
      for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        about = f'{array.dtype} {array.shape} '.encode()
        name = folder.name + jax.tree_util.keystr(path)
        found[name] = hashlib.sha256(about + array.tobytes()).hexdigest()
  return found


# Records.


def lines(workdir: pathlib.Path) -> tuple[bytes, ...]:
  """Those of `metrics.jsonl`."""
  path = workdir / 'metrics.jsonl'
  return tuple(path.read_bytes().splitlines()) if path.exists() else ()


def key(line: bytes) -> Key:
  """What a record is of."""
  try:
    record = json.loads(line)
    return (
      str(record['method']), str(record['phase']), int(record['step']),
      str(record['split']),
    )  # fmt: skip
  except (ValueError, KeyError, TypeError):
    return None


def changed(before: Iterable[bytes], after: Iterable[bytes]) -> set[Key]:
  """The records that are in one of the two alone."""
  return {key(line) for line in {*before} ^ {*after}}


# What was lost.


class Kept(NamedTuple):
  """What is saved at a moment, and must not be trained again.

  Attributes:
    networks: folders of the saved ones.
    steps: of the newest checkpoint of each phase, by 'METHOD/PHASE'.
    lines: of `metrics.jsonl` up to these.
  """

  networks: Collection[str]
  steps: Mapping[str, int]
  lines: tuple[bytes, ...]


NOTHING = Kept((), {}, ())


def kept(workdir: pathlib.Path, harmed: str = '') -> Kept:
  """What is saved, without the network or checkpoint of a harmed file."""

  def whole(name):
    return not harmed.startswith(f'{name}/')

  steps = harms.last_steps(filter(whole, harms.seen(workdir)))
  return Kept(
    list(filter(whole, _networks(workdir))),
    steps,
    tuple(line for line in lines(workdir) if _reached(key(line), steps)),
  )


def _reached(of: Key, steps: Mapping[str, int]) -> bool:
  return of is not None and of[2] <= steps.get(f'{of[0]}/{of[1]}', 0)


def lost(
  before: Kept, workdir: pathlib.Path, out: str, per_epoch: Mapping[str, int]
) -> list[str]:
  """What was saved before a harm, and is gone or was made again after it.

  Args:
    before: what was saved.
    workdir: after the run has gone on.
    out: what it printed since; a line of it tells of every epoch.
    per_epoch: steps of an epoch.
  """
  found = []
  done = {name.partition('/')[0] for name in before.networks}
  for phase, epoch in re.findall(r'^(\S+/\S+) epoch (\d+)/', out, re.MULTILINE):
    saved = int(epoch) * per_epoch.get(phase, 1) <= before.steps.get(phase, 0)
    if saved or phase.partition('/')[0] in done:
      found.append(f'epoch {epoch} of {phase} was trained again')
  if gone := {*before.lines} - {*lines(workdir)}:
    found.append(f'{len(gone)} records of metrics.jsonl are gone')
  return found


def differences(
  reference: State,
  workdir: pathlib.Path,
  more: Collection[Key] = (),
  spared: Collection[Key] = (),
) -> list[str]:
  """What a run left otherwise than the undisturbed one.

  Args:
    reference: of the undisturbed run.
    workdir: of the other, finished too.
    more: records that it may have beside: of stops within an epoch.
    spared: records that were harmed, of which nothing is expected.
  """
  try:
    found = state(workdir)
  except Exception as error:  # Orbax raises many kinds for damaged arrays.
    return [f'what is left cannot be read: {first_line(error)}']
  problems = []
  for name in sorted({*reference.networks, *found.networks}):
    one, other = reference.networks.get(name), found.networks.get(name)
    if one is None or other is None:
      problems.append(f'{name} is {"missing" if other is None else "new"}')
    elif one != other:
      paths = sorted({p for p, _ in {*one.items()} ^ {*other.items()}})
      problems.append(f'{len(paths)} parts of {name} differ: {paths[0]} …')
  if found.rows != reference.rows:
    problems.append('the rows of results.json differ')
  return problems + _of_records(reference.lines, found.lines, more, spared)


def _of_records(wanted, found, more, spared):
  known = {key(line): line for line in wanted}
  times = collections.Counter(map(key, found))
  of = {key(line): line for line in found}
  more = {*more, *spared}
  # What was harmed may also have become no record, or another one.
  odd = [k for k in times if k not in known and k not in more]
  # A stop within an epoch splits its record in two, with means of their own.
  same = [
    k for k in known.keys() & of.keys() - {*spared}
    if not (more and k is not None and k[3] == 'train')
  ]  # fmt: skip
  groups = {
    'are missing': [k for k in known if k not in times and k not in spared],
    'are there twice': [k for k, n in times.items() if n > 1 and k not in more],
    'are none of the undisturbed run': odd,
    'have other numbers': [
      k for k in same
      if _untimed(json.loads(known[k])) != _untimed(json.loads(of[k]))
    ],
  }  # fmt: skip
  return [
    f'{len(keys)} records of metrics.jsonl {what}, such as {keys[0]}'
    for what, keys in groups.items()
    if keys
  ]


def said(ended: Ended, codes: Collection[int]) -> list[str]:
  """What is wrong with how a command ended, by code and by words.

  Args:
    ended: the command.
    codes: that it may end with.
  """
  if ended.code is None:
    return [f'had not ended after {ended.seconds:.0f} s']
  problems = []
  if 'Traceback' in ended.err + ended.out:
    problems.append('a traceback')
  if ended.code not in codes:
    problems.append(f'exit code {ended.code}')
  told = ended.err.strip().splitlines()
  refused = len(told) == 1 and told[0].startswith('error: ')
  if ended.code == REFUSED and not refused:
    problems.append(f'{len(told)} lines, and not one line of error')
  if ended.code > 128 and GO_ON not in ended.err:
    problems.append('does not say how to go on')
  return problems
