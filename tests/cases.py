"""How many cases are drawn, what they are made of, and what a refusal is."""

import contextlib
import faulthandler
import os
import pathlib
import signal
import tempfile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from lit_jax.errors import UserError

# How many configurations are drawn, and about twice as many other inputs; a
# long run has thousands.
CASES = int(os.environ.get('LIT_JAX_CASES', '200'))
SECONDS = 30  # that a case may take
LONGEST = 1500  # characters of a line, of which a path may take many


def cases(share=1.0):
  """Settings of a test that draws this share of CASES."""
  return settings(
    max_examples=max(1, round(share * CASES)),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
  )


def assert_one_line(line, longest=400):
  assert len(line.splitlines()) == 1 and line.isprintable(), repr(line)
  assert len(line) <= longest, line


def outcome(call, kind=UserError):
  """What a call returns, or None where it refuses in one line.

  Args:
    call: of no arguments.
    kind: of the refusal; any other error is raised.
  """
  with in_time():
    try:
      return call()
    except kind as error:
      assert_one_line(str(error), LONGEST)
      return None


def refused(call, seconds=SECONDS):
  """The line with which a call refuses."""
  with in_time(seconds), pytest.raises(UserError) as caught:
    call()
  assert_one_line(str(caught.value), LONGEST)
  return str(caught.value)


@contextlib.contextmanager
def in_time(seconds=SECONDS):
  """Fails where the block takes longer; ends the process if that hangs, too."""

  def stop(*args):
    raise AssertionError(f'took more than {seconds} seconds')

  before = signal.signal(signal.SIGALRM, stop)
  signal.setitimer(signal.ITIMER_REAL, seconds)
  # For what waits where no exception can be raised.
  faulthandler.dump_traceback_later(2 * seconds, exit=True)
  try:
    yield
  finally:
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def files(folder):
  """What lies in a folder, by path: bytes, or '' of what is no file."""
  return {
    path.relative_to(folder): path.read_bytes() if path.is_file() else ''
    for path in folder.rglob('*')
  }


@contextlib.contextmanager
def room():
  """A folder `data`, with files around it that nobody may touch."""
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    (root / 'data').mkdir()
    (root / 'beside').write_text('mine')
    before = _around(root)
    yield root / 'data'
    assert _around(root) == before


def _around(root):
  found = files(root)
  return {p: c for p, c in found.items() if p.parts[0] not in ('data', 'cache')}


# Harm to any bytes.

HARMS = st.lists(
  st.tuples(
    st.sampled_from(['cut', 'flip', 'put', 'double']),
    st.floats(0, 1),
    st.integers(0, 7),
    st.sampled_from([b'\0', b'"', b'\xff', b'\n', b'\r', b'PK', b'\x1f\x8b']),
  ),
  min_size=1,
  max_size=3,
)


def harmed(raw, harms):
  for kind, where, bit, what in harms:
    at = int(where * len(raw))
    if kind == 'cut':
      raw = raw[:at]
    elif kind == 'double':
      raw = raw[:at] + raw
    elif kind == 'put':
      raw = raw[:at] + what + raw[at:]
    elif at < len(raw):
      raw = raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
  return raw


# Anything that JSON can hold.

SCALARS = st.one_of(
  st.none(), st.booleans(), st.integers(-9, 40), st.integers(), st.floats(),
  st.text(max_size=9),
  st.sampled_from([
    0, 8, 14, 2**31, 10**6 + 4, 10**30, 10**320, 1e308, float('inf'),
    float('nan'), 'a' * 300, '\ud800', '../../x', '\0', '\n',
  ]),
)  # fmt: skip


def json_values(keys=(), scalars=SCALARS):
  """Values in lists and dictionaries, some of whose keys are these."""
  names = st.text(max_size=5)
  names = st.sampled_from(keys) | names if keys else names
  return st.recursive(
    scalars,
    lambda inner: (
      st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=3)
    ),
    max_leaves=6,
  )


JSON = json_values()
