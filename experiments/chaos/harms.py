"""When a run is harmed, and how its files are: pure, drawn by a seed."""

import itertools
import pathlib
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

# The stages of a run, in order; 'border' lies between two phases.
STAGES = ('start', 'training', 'saving', 'border', 'report')
# Paths that tell nothing of how far a run is.
_SILENT = ('cache', 'tensorboard', 'pictures')
# Before anything is seen of a run.
BEGIN = ''


# Moments.


class Event(NamedTuple):
  """Attributes: a path that appears, below the workdir; seconds until then."""

  name: str
  seconds: float


class Moment(NamedTuple):
  """Attributes: what a run is at; an event, and seconds since it."""

  stage: str
  event: str
  seconds: float

  def __str__(self):
    after = self.event or 'its start'
    return f'{self.seconds:.3f} s after {after} ({self.stage})'


def seen(workdir: pathlib.Path) -> set[str]:
  """The paths that tell how far a run is, at most three parts deep.

  A folder that is still being written, and is renamed when it is whole, ends
  with '.part', whoever writes it.
  """
  found, folders = set(), [(workdir, '', 1)]
  for folder, prefix, depth in folders:
    try:
      entries = list(folder.iterdir())
    except OSError:  # gone since it was listed
      continue
    for entry in entries:
      name = re.sub(r'\.orbax-checkpoint-tmp.*', '.part', entry.name)
      if name.startswith('.') or depth == 1 and name in _SILENT:
        continue
      found.add(prefix + name)
      if depth < 3:
        folders.append((entry, f'{prefix}{name}/', depth + 1))
  return found


def last_steps(names: Iterable[str]) -> dict[str, int]:
  """The newest checkpoint of each phase, by 'METHOD/PHASE'."""
  steps: dict[str, int] = {}
  for name in names:
    phase, _, step = name.rpartition('/')
    if name.count('/') == 2 and step.isdecimal():
      steps[phase] = max(int(step), steps.get(phase, 0))
  return steps


def stretches(events: Sequence[Event]) -> list[Moment]:
  """The last moment of each event of a run, the last of which is its end."""
  names = [event.name for event in events]
  last = last_steps(names)
  networks = [
    name
    for name in names
    if re.fullmatch(r'[^/]+/[^/.]+', name) and name not in last
  ]
  stage, found = 'start', []
  for event, after in itertools.pairwise(events):
    stage = _stage(event.name, last, networks) or stage
    found.append(Moment(stage, event.name, after.seconds - event.seconds))
  return found


def _stage(name, last, networks):
  """The stage that begins with the event; None where none does."""
  phase, _, step = name.rpartition('/')
  if name.endswith('.part'):
    return 'saving'
  if name in last:
    return 'training'
  if phase in last and step.isdecimal():
    return 'border' if int(step) == last[phase] else 'training'
  if name in networks:
    return 'report' if name == networks[-1] else 'border'
  return None


def moment(run: Sequence[Moment], stage: str, source: random.Random) -> Moment:
  """Draws a moment of a stage from a run's stretches, all alike likely."""
  own = [stretch for stretch in run if stretch.stage == stage]
  # Those that were seen at once with the next still have a chance.
  weights = [max(stretch.seconds, 1e-3) for stretch in own]
  (chosen,) = source.choices(own, weights)
  return chosen._replace(seconds=source.uniform(0, chosen.seconds))


# Damages.


class Kind(NamedTuple):
  """What a workdir holds, and what is expected where such a file is damaged.

  Attributes:
    name: for people.
    pattern: of its files' paths below the workdir.
    may_refuse: whether the run may end in a line and exit code 2, because
      what the file says is known from nowhere else; if not, it must go on.
    what: becomes of it.
  """

  name: str
  pattern: str
  may_refuse: bool
  what: str


_NEWEST = 'newest checkpoint: '
# The first whose pattern matches. What is not refused must end as the
# undisturbed run, bit for bit.
KINDS = (
  Kind('config.json', r'config\.json', True, 'refused, or as good as before'),
  Kind('data.json', r'data\.json', True, 'refused, or as good as before'),
  Kind('results.json', r'results\.json', False, 'made again from the networks'),
  Kind('report.html', r'report\.html', False, 'drawn again'),
  Kind(
    'metrics.jsonl', r'metrics\.jsonl', False,
    'the harmed records may be lost, and no others',
  ),
  Kind('row.json', r'[^/]+/row\.json', False, 'the baseline is made again'),
  Kind(
    'network.json', r'[^/]+/[^/]+/network\.json', False,
    'put aside, and saved again from the last checkpoint',
  ),
  Kind(
    'network: arrays', r'[^/]+/[^/]+/(arrays|others)/(.*/)?d/[^/]+', False,
    'put aside, and saved again from the last checkpoint',
  ),
  Kind(
    'network: metadata', r'[^/]+/[^/]+/(arrays|others)/.*', False,
    'as its arrays, where it matters',
  ),
  Kind(
    'checkpoint: arrays', r'[^/]+/[^/]+/\d+/(.*/)?d/[^/]+', False,
    'goes on from another one',
  ),
  Kind(
    'checkpoint: metadata', r'[^/]+/[^/]+/\d+/.*', False,
    'goes on from this or another one',
  ),
  Kind('event file', r'tensorboard/.*', False, 'may stay harmed'),
  Kind('compiled program', r'cache/.*', False, 'compiled again'),
  Kind('picture', r'.*\.png', False, 'may stay harmed'),
  Kind('other file', r'.*', True, 'no harm comes of it, or refused'),
)  # fmt: skip


def kind_of(path: str, newest: str = '') -> Kind:
  """The kind of a file, by its path below the workdir.

  Args:
    path: of the file.
    newest: folder of the checkpoint that a run would go on from, whose files
      are of kinds of their own.
  """
  kind = next(k for k in KINDS if re.fullmatch(k.pattern, path))
  if newest and path.startswith(f'{newest}/'):
    return kind._replace(name=_NEWEST + kind.name.partition(': ')[2])
  return kind


def _flipped(content: bytes, source: random.Random) -> bytes:
  place, bit = source.randrange(len(content)), source.randrange(8)
  changed = bytearray(content)
  changed[place] ^= 1 << bit
  return bytes(changed)


FLIPPED = 'one bit flipped'
# Of a file's content, which is not empty.
HARMS = {
  'emptied': lambda content, source: b'',
  'cut in half': lambda content, source: content[: len(content) // 2],
  FLIPPED: _flipped,
}


class Damage(NamedTuple):
  """Attributes: the workdir's state; the file's path and kind; what it is."""

  state: str
  path: str
  kind: Kind
  harm: str

  def __str__(self):
    return f'{self.path} {self.harm} ({self.kind.name}, {self.state})'


def damages(
  files: Mapping[str, Mapping[str, int]],
  newest: Mapping[str, str],
  source: random.Random,
) -> list[Damage]:
  """Every harm to a drawn file of every kind in every state, in drawn order.

  Args:
    files: sizes by path below the workdir, by the workdir's state.
    newest: the checkpoint that it would go on from, likewise.
    source: of what is drawn.
  """
  found = []
  for state, sizes in files.items():
    by_kind: dict[Kind, list[str]] = {}
    for path in sorted(sizes):
      by_kind.setdefault(kind_of(path, newest[state]), []).append(path)
    for kind, own in by_kind.items():
      for harm in HARMS:
        # A bit flips anywhere; files are cut or emptied all alike.
        weights = [sizes[path] if harm == FLIPPED else 1 for path in own]
        (path,) = source.choices(own, weights)
        found.append(Damage(state, path, kind, harm))
  source.shuffle(found)
  return found
