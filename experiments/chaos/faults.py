"""The faults: each starts the ordinary command, harms it, and has it go on.

All make one trial of a site: the number and the source decide what is drawn.
"""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from experiments.chaos import compare, damages
from experiments.chaos.child import PEER_SECONDS, Child, Ended, bound
from experiments.chaos.compare import REFUSED
from experiments.chaos.moments import BEGIN, STAGES, Moment
from experiments.chaos.site import FINISHED, PROGRAMS, Site, Skipped

_STOP_SECONDS = 30.0
_WHOLE_RUN = 1200.0  # seconds, on a machine with other work
_PAGE = 4096
_PLENTY = 'size=256m'
# A stop cannot be asked for, or noticed, before the command has read its flags.
_AT_WORK = STAGES[1:]


class Outcome(NamedTuple):
  """What a trial did; problems with what came of it; or why it was not made."""

  what: str
  problems: list[str] = []
  skipped: str = ''


def kill(site: Site, number: int, source: random.Random) -> Outcome:
  """kill -9 of the process group, in each stage in turn."""
  moment = site.moment([STAGES[number % len(STAGES)]], source)
  # Some without compiled programs, and so perhaps while one is written.
  cold = number % 10 in (1, 5)
  moment, _ = site.at(
    moment,
    lambda child: child.send(signal.SIGKILL),
    base=None if cold else PROGRAMS,
  )
  what = f'killed {moment}{", nothing compiled" if cold else ""}'
  before = compare.kept(site.run)
  return Outcome(what, site.over(before, site.command()))


def damage(site: Site, number: int, source: random.Random) -> Outcome:
  """A harmed file in a workdir that was stopped, or is finished."""
  one = site.damages()[number]
  site.fresh(one.state)
  path, records = site.run / one.path, compare.records_of(site.run)
  content = path.read_bytes()
  path.write_bytes(damages.HARMS[one.harm](content, source))
  spared = compare.changed(records, compare.records_of(site.run))
  before = compare.kept(site.run, one.path)
  ended = site.command()
  if ended.code != REFUSED:
    return Outcome(str(one), site.over(before, ended, spared))
  problems = compare.said(ended, {REFUSED})
  if not one.kind.may_refuse:
    problems += ['refused', ended.err.strip()]
  path.write_bytes(content)
  problems += site.over(compare.kept(site.run), site.command())
  return Outcome(f'{one}, refused and put back', problems)


def full(site: Site, number: int, source: random.Random) -> Outcome:
  """A disk that is full early, half-way or late in the run, in turn."""
  programs = _pages(site.folder / PROGRAMS)
  others = _pages(site.folder / FINISHED) - programs
  share = 0.05 + 0.85 * (number % 3 + source.random()) / 3
  with _file_system(site):
    _mount(site.run, f'remount,size={programs + int(share * others)}')
    site.fresh(PROGRAMS)
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


def slow(site: Site, number: int, source: random.Random) -> Outcome:
  """A file system that is long in answering, as one over a network may be."""
  if shutil.which(_TRACER) is None:
    raise Skipped(f'calls are delayed by the program {_TRACER}; install it')
  site.fresh(PROGRAMS)
  seconds = _DELAYS[number % len(_DELAYS)]
  delays = f'inject={_SLOW_CALLS}:delay_exit={seconds * 1e6:.0f}'
  ended = site.command(
    [_TRACER, '-f', '--seccomp-bpf', '-qqq', '-o', os.devnull]
    + ['-e', f'trace={_SLOW_CALLS}', '-e', delays]
  )
  problems = site.over(compare.NOTHING, ended)
  return Outcome(f'{seconds:g} s for every call that writes through', problems)


_TRACER = 'strace'
_DELAYS = 0.1, 0.5
# What a server has to answer before it returns; not every machine has them all.
_SLOW_CALLS = (
  '?fsync,?fdatasync,?rename,?renameat,?renameat2,?mkdir,?mkdirat,?unlink,'
  '?unlinkat'
)


def denied(site: Site, number: int, source: random.Random) -> Outcome:
  """No right to write any more."""
  if not os.geteuid() and not bound():
    raise Skipped('root is never denied, unless the program setpriv is there')

  def modes(change: Callable[[int], int]):
    for path in (site.run, *site.run.rglob('*')):
      with contextlib.suppress(FileNotFoundError):
        path.chmod(change(path.stat().st_mode))

  moment, ended = site.at(
    site.moment(_AT_WORK[:-1], source),
    lambda child: modes(lambda mode: mode & ~0o222),
  )
  modes(lambda mode: mode | 0o200)
  problems = compare.said(ended, {REFUSED})
  before = compare.kept(site.run)
  problems += site.over(before, site.command())
  return Outcome(f'write permission revoked {moment}', problems)


def sigterm(site: Site, number: int, source: random.Random) -> Outcome:
  """SIGTERM to the process, which has 30 seconds."""
  moment = site.moment(_AT_WORK, source)
  moment, ended = site.at(moment, Child.ask, _STOP_SECONDS)
  # Once the page is written, all is done, and soon nobody listens.
  written = (site.run / 'report.html').exists()
  done = {0, -signal.SIGTERM} if written else set()
  if site.task.processes > 1:
    # They agree with the next call; after the last one there is none.
    done |= {0}
  problems = compare.said(ended, {128 + signal.SIGTERM} | done)
  before = compare.kept(site.run)
  return Outcome(
    f'SIGTERM {moment}', problems + site.over(before, site.command())
  )


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


def removed(site: Site, number: int, source: random.Random) -> Outcome:
  """rm -r of the workdir during a run."""

  def harm(child):
    while site.run.exists():  # the run may write into it meanwhile
      shutil.rmtree(site.run, ignore_errors=True)

  moment, ended = site.at(site.moment(_AT_WORK, source), harm)
  # Once the page is written, there is nothing to notice it by.
  done = {0} if moment.path == 'report.html' else set()
  problems = compare.said(ended, {REFUSED} | done)
  # Compiling all of them again would take minutes.
  shutil.copytree(site.folder / PROGRAMS, site.run, dirs_exist_ok=True)
  before = compare.kept(site.run)
  problems += site.over(before, site.command())
  return Outcome(f'workdir removed {moment}', problems)


def peer(site: Site, number: int, source: random.Random) -> Outcome:
  """One of two processes killed, stopped, asked to stop, or late."""
  if site.task.processes == 1:
    raise Skipped('one process makes the run')
  index, way = number % 2, number // 2 % len(_WAYS)
  what = f'process {index} {_WAYS[way]}'
  if way == _LATE:
    _, ended = site.at(_FIRST, lambda child: _delay(child, index), _WHOLE_RUN)
    return Outcome(what, site.over(compare.NOTHING, ended))
  found: list[Ended] = []
  moment = site.moment(_AT_WORK[:-1], source)

  def harm(child):
    if way == _ASKED:
      child.ask(index)
      found.append(child.wait(_STOP_SECONDS))
    else:
      child.send((signal.SIGKILL, signal.SIGSTOP)[way], index)
      found.append(child.wait(PEER_SECONDS + _STOP_SECONDS, without=index))

  moment, _ = site.at(moment, harm)
  if way == _ASKED:
    problems = compare.said(found[-1], {0, 128 + signal.SIGTERM})
  else:
    (other,) = found[-1].others
    left = found[-1] if index else other
    problems = compare.gone(left, aborts=index == 0)
  before = compare.kept(site.run)
  problems += site.over(before, site.command())
  return Outcome(f'{what} {moment}', problems)


_WAYS = 'killed', 'stopped by SIGSTOP', 'asked to stop', 'late'
_ASKED, _LATE = 2, 3
_FIRST = Moment(STAGES[0], BEGIN, 0.0)


def _delay(child, index):
  """Holds a process up at its start, for less than the others wait."""
  child.send(signal.SIGSTOP, index)
  time.sleep(PEER_SECONDS / 4)
  child.send(signal.SIGCONT, index)


# Each with how many trials are made of it, unless the command says.
FAULTS: dict[str, tuple[Callable[..., Outcome], int]] = {
  'kill': (kill, 25),
  'damage': (damage, 1000),  # or as many as there are
  'full': (full, 3),
  'slow': (slow, 2),
  'denied': (denied, 3),
  'sigterm': (sigterm, 5),
  'two': (two, 1),
  'removed': (removed, 5),
  'peer': (peer, 8),
}


def trial(site: Site, kind: str, number: int) -> Outcome:
  """Makes a trial; where it fails, the workdir and the outputs are kept.

  Args:
    site: prepared.
    kind: of FAULTS.
    number: from 0; with the site's seed it decides all that is drawn.
  """
  source = random.Random(f'{site.seed}/{kind}/{number}')
  site.clear()
  make, _ = FAULTS[kind]
  try:
    outcome = make(site, number, source)
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
