"""The faults: each starts the ordinary command, harms it, and has it go on."""

import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import NamedTuple

from experiments.chaos import compare, harms
from experiments.chaos.compare import REFUSED
from experiments.chaos.processes import Child, Ended, started
from experiments.chaos.sites import FINISHED, Site, Skipped

_STOP_SECONDS = 30.0
_NOBODY = 65534
_PAGE = 4096
_PLENTY = 'size=256m'
# A stop cannot be asked for, or noticed, before the command has read its flags.
_AT_WORK = ('training', 'saving', 'border', 'report')


class Outcome(NamedTuple):
  """What came of a trial.

  Attributes:
    what: was done.
    problems: with what came of it; none where the run survived.
    skipped: why it was not made; '' where it was.
  """

  what: str
  problems: list[str] = []
  skipped: str = ''


def kill(site: Site, number: int, source: random.Random) -> Outcome:
  """kill -9 of the process group."""
  moment = site.moment([harms.STAGES[number % len(harms.STAGES)]], source)
  # Some without compiled programs, and so perhaps while one is written.
  cold = number % 10 in (1, 5)
  moment, _ = site.at(moment, lambda c: c.send(signal.SIGKILL), cold=cold)
  what = f'killed {moment}{", nothing compiled" if cold else ""}'
  before = compare.kept(site.run)
  return Outcome(what, site.over(before, site.command()))


def sigterm(site: Site, number: int, source: random.Random) -> Outcome:
  """SIGTERM to the process."""
  moment = site.moment(_AT_WORK, source)
  moment, ended = site.at(moment, Child.ask, _STOP_SECONDS)
  # Once the page is written, all is done, and soon nobody listens.
  written = (site.run / 'report.html').exists()
  done = {0, -signal.SIGTERM} if written else set()
  problems = compare.said(ended, {128 + signal.SIGTERM} | done)
  stop = re.search(r'in (\S+)/(\S+) at step (\d+)', ended.err)
  more = [(stop[1], stop[2], int(stop[3]), 'train')] if stop else []
  before = compare.kept(site.run)
  problems += site.over(before, site.command(), more)
  return Outcome(f'SIGTERM {moment}', problems)


def removed(site: Site, number: int, source: random.Random) -> Outcome:
  """rm -r of the workdir during a run."""

  def harm(child):
    while site.run.exists():  # the run may write into it meanwhile
      shutil.rmtree(site.run, ignore_errors=True)

  moment, ended = site.at(site.moment(_AT_WORK, source), harm)
  # Once the page is written, there is nothing to notice it by.
  done = {0} if moment.event == 'report.html' else set()
  problems = compare.said(ended, {REFUSED} | done)
  before = compare.kept(site.run)
  problems += site.over(before, site.command())
  return Outcome(f'workdir removed {moment}', problems)


def two(site: Site, number: int, source: random.Random) -> Outcome:
  """A second run in the workdir, while the first is at work."""
  second: list[Ended] = []

  def harm(child):
    # So that the first cannot end before the second has begun.
    child.send(signal.SIGSTOP)
    second.append(site.command())
    child.send(signal.SIGCONT)

  moment, first = site.at(site.moment(['training'], source), harm)
  problems = compare.said(second[-1], {REFUSED})
  if 'another run is at work' not in second[-1].err:
    problems.append('the second does not say that another is at work')
  problems += site.over(compare.NOTHING, first)
  return Outcome(f'a second run {moment}', problems)


def denied(site: Site, number: int, source: random.Random) -> Outcome:
  """No right to write any more, for a user whom rights bind."""
  user = _bound_user(site)

  def modes(change: Callable[[int], int]):
    for path in (site.run, *site.run.rglob('*')):
      with contextlib.suppress(FileNotFoundError):
        path.chmod(change(path.stat().st_mode))

  moment, ended = site.at(
    site.moment(_AT_WORK[:-1], source),
    lambda child: modes(lambda mode: mode & ~0o222),
    user=user,
  )
  modes(lambda mode: mode | 0o200)
  problems = compare.said(ended, {REFUSED})
  before = compare.kept(site.run)
  problems += site.over(before, site.command(user))
  return Outcome(f'write permission revoked {moment}', problems)


def _bound_user(site: Site) -> int | None:
  """Another user than root who can run the command; None: this one can."""
  if os.geteuid():
    return None
  site.fresh(user=_NOBODY)
  probe = f"import experiments.cli; open('{site.run}/probe', 'w')"
  site.logs.mkdir()
  with started(['-c', probe], site.logs / 'probe', _NOBODY) as child:
    if child.wait().code == 0:
      return _NOBODY
  raise Skipped(
    'root is never denied, and nobody else can read this checkout and its '
    f'Python, and write in {site.folder}'
  )


def full(site: Site, number: int, source: random.Random) -> Outcome:
  """A disk that is full before the run is over."""
  cache = _pages(site.folder / FINISHED / 'cache')
  others = _pages(site.folder / FINISHED) - cache
  share = source.uniform(0.05, 0.9)
  with _file_system(site):
    _mount(site.run, f'remount,size={cache + int(share * others)}')
    site.fresh()
    problems = compare.said(site.command(), {REFUSED})
    _mount(site.run, f'remount,{_PLENTY}')
    before = compare.kept(site.run)
    problems += site.over(before, site.command())
  return Outcome(f'disk full after {share:.0%} of what it writes', problems)


def _pages(folder) -> int:
  """Bytes that its files take in memory, whole pages each."""
  sizes = [path.stat().st_size for path in folder.rglob('*') if path.is_file()]
  return sum(-(-size // _PAGE) * _PAGE for size in sizes)


@contextlib.contextmanager
def _file_system(site: Site) -> Iterator[None]:
  """The workdir as a file system of its own; a folder again after it."""
  shutil.rmtree(site.run, ignore_errors=True)
  site.run.mkdir()
  _mount(site.run, _PLENTY)
  copy = site.folder / 'copy'
  try:
    yield
    shutil.copytree(site.run, copy)
  finally:
    subprocess.run(['umount', '--lazy', site.run], check=True)
  site.run.rmdir()
  copy.rename(site.run)


def _mount(folder, options):
  command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)]
  try:
    subprocess.run(command, check=True, capture_output=True, text=True)
  except (OSError, subprocess.CalledProcessError) as error:
    words = getattr(error, 'stderr', '') or str(error)
    raise Skipped(f'a small disk cannot be mounted: {words.strip()}') from None


def damage(site: Site, number: int, source: random.Random) -> Outcome:
  """A harmed file in a workdir that was stopped, or is finished."""
  one = site.damages()[number]
  site.fresh(one.state)
  path, lines = site.run / one.path, compare.lines(site.run)
  content = path.read_bytes()
  path.write_bytes(harms.HARMS[one.harm](content, source))
  spared = compare.changed(lines, compare.lines(site.run))
  before = compare.kept(site.run, one.path)
  # Of the stop half-way, where it was within an epoch.
  more = {*map(compare.key, lines)} - {*map(compare.key, site.reference.lines)}
  ended = site.command()
  if ended.code != REFUSED:
    return Outcome(str(one), site.over(before, ended, more, spared))
  problems = compare.said(ended, {REFUSED})
  if not one.kind.may_refuse:
    problems += ['refused', ended.err.strip()]
  path.write_bytes(content)
  problems += site.over(compare.kept(site.run), site.command(), more)
  return Outcome(f'{one}, refused and put back', problems)


class Fault(NamedTuple):
  """Attributes: makes a trial; trials by default; what surviving means."""

  make: Callable[[Site, int, random.Random], Outcome]
  count: int
  means: str


_ON = 'the same command goes on and ends bit for bit as undisturbed'
FAULTS = {
  'kill': Fault(kill, 25, f'after kill -9 {_ON}; nothing is trained again'),
  'damage': Fault(
    damage, 0,
    f'with a harmed file {_ON}, or it is refused in one line where no other '
    'file says the same',
  ),
  'full': Fault(full, 3, f'one line tells of a full disk; with room {_ON}'),
  'denied': Fault(denied, 3, f'one line tells of a lost right; with it {_ON}'),
  'sigterm': Fault(
    sigterm, 5, f'ends in 30 s with code 143 and a line; {_ON}'
  ),
  'two': Fault(two, 1, 'one line refuses the second; the first is undisturbed'),
  'removed': Fault(removed, 2, f'one line tells of a workdir gone; {_ON}'),
}  # fmt: skip


def trial(site: Site, kind: str, number: int) -> Outcome:
  """Makes a trial; where it fails, the workdir and the outputs are kept.

  Args:
    site: prepared.
    kind: of FAULTS.
    number: from 0; with the site's seed it decides all that is drawn.
  """
  source = random.Random(f'{site.seed}/{kind}/{number}')
  site.clear()
  try:
    outcome = FAULTS[kind].make(site, number, source)
  except Skipped as why:
    return Outcome('', skipped=str(why))
  if not outcome.problems:
    return outcome
  kept = site.folder / 'failed' / f'{kind}-{number}'
  shutil.rmtree(kept, ignore_errors=True)
  kept.mkdir(parents=True)
  for path in filter(pathlib.Path.exists, (site.run, site.logs)):
    path.rename(kept / path.name)
  return outcome._replace(what=f'{outcome.what}; kept in {kept}')
