"""What a workdir holds, and how its files are damaged."""

import random
import re
from collections.abc import Mapping
from typing import NamedTuple


class Kind(NamedTuple):
  """Files of which the same is expected when one is damaged.

  Attributes:
    name: for people.
    pattern: of their paths below the workdir.
    may_refuse: whether the run may end in a line and exit code 2, since what
      the file says is known from nowhere else. If not, it must go on.
  """

  name: str
  pattern: str
  may_refuse: bool = False


# The first whose pattern matches. A run that goes on ends as the undisturbed
# one; for that it reads what else there is: networks are saved again from the
# last checkpoint, and phases go on from the checkpoint before.
KINDS = (
  Kind('config.json', r'config\.json', may_refuse=True),
  Kind('data.json', r'data\.json', may_refuse=True),
  Kind('results.json', r'results\.json'),
  Kind('report.html', r'report\.html'),
  Kind('metrics.jsonl', r'metrics\.jsonl'),
  Kind("baseline's row.json", r'[^/]+/row\.json'),
  Kind("network's network.json", r'[^/]+/[^/]+/network\.json'),
  Kind("network's arrays", r'[^/]+/[^/]+/(arrays|others)/(.*/)?d/[^/]+'),
  Kind("network's metadata", r'[^/]+/[^/]+/(arrays|others)/.*'),
  Kind("checkpoint's arrays", r'[^/]+/[^/]+/\d+/state/(.*/)?d/[^/]+'),
  Kind("checkpoint's checksums", r'[^/]+/[^/]+/\d+/checksums/.*'),
  Kind("checkpoint's metadata", r'[^/]+/[^/]+/\d+/.*'),
  Kind('event file', r'tensorboard/.*'),
  Kind('compiled program', r'cache/.*'),
  Kind('picture', r'pictures/.*'),
  Kind('other file', r'.*', may_refuse=True),
)


def kind_of(path: str, newest: str) -> Kind:
  """The kind of a file, by its path below the workdir.

  Args:
    path: of the file.
    newest: folder of the checkpoint that a run would go on from, whose files
      are of kinds of their own.
  """
  kind = next(k for k in KINDS if re.fullmatch(k.pattern, path))
  if path.startswith(f'{newest}/'):
    return kind._replace(name=f'newest {kind.name}')
  return kind


def _flipped(content: bytes, source: random.Random) -> bytes:
  place, bit = source.randrange(len(content)), source.randrange(8)
  changed = bytearray(content)
  changed[place] ^= 1 << bit
  return bytes(changed)


FLIPPED = 'one bit flipped'
# Each takes a file's content, which is not empty.
HARMS = {
  'emptied': lambda content, source: b'',
  'cut in half': lambda content, source: content[: len(content) // 2],
  FLIPPED: _flipped,
}


class Damage(NamedTuple):
  """The workdir's state; the file's path below it, and its kind; a harm."""

  state: str
  path: str
  kind: Kind
  harm: str

  def __str__(self):
    return f'{self.path} {self.harm} ({self.kind.name}, {self.state})'


def drawn(
  sizes: Mapping[str, Mapping[str, int]],
  newest: Mapping[str, str],
  source: random.Random,
) -> list[Damage]:
  """Every harm to a drawn file of every kind in every state, in drawn order.

  Args:
    sizes: bytes of each file by its path below the workdir, by the workdir's
      state; empty files are left out.
    newest: folder of the checkpoint that the workdir would go on from, by its
      state.
    source: of what is drawn.
  """
  found = []
  for state, files in sizes.items():
    by_kind: dict[Kind, list[str]] = {}
    for path in sorted(path for path, size in files.items() if size):
      by_kind.setdefault(kind_of(path, newest[state]), []).append(path)
    for kind, paths in by_kind.items():
      for harm in HARMS:
        # A bit flips anywhere; files are cut or emptied all alike.
        weights = [files[path] if harm == FLIPPED else 1 for path in paths]
        (path,) = source.choices(paths, weights)
        found.append(Damage(state, path, kind, harm))
  source.shuffle(found)
  return found
