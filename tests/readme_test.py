"""What the README shows works as it stands there."""

import json
import pathlib
import re
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import COMMANDS

from lit_jax import command

README = pathlib.Path(__file__).parent.parent / 'README.md'


def _examples():
  """The README's Python: one's network, loaded, cut, of NNX; the loop."""
  return re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)


def _run(code, names):
  exec(compile(code, 'README.md', 'exec'), names)


@pytest.mark.slow
def test_own_network_example_runs(tmp_path, monkeypatch):
  network, load, cut, of_nnx, _ = _examples()
  monkeypatch.chdir(tmp_path)
  names = {'__name__': 'readme'}
  _run(network, names)
  results = json.loads((tmp_path / 'runs/mine/results.json').read_text())
  assert [row['method'] for row in results['rows']] == ['teacher', 'lit']
  # Stem, two blocks and head: 1 + 4 + 4 + 1 and 1 + 1 + 1 + 1 layers.
  assert [row['depth'] for row in results['rows']] == [10, 4]
  assert all(0 <= row['accuracy'] <= 1 for row in results['rows'])
  # The loaded network is the one of the row.
  _run(load, names)
  right = names['logits'].argmax(-1) == names['labels']
  assert right[64:].mean() == pytest.approx(results['rows'][1]['accuracy'])
  # A module is cut, and gets its variables back.
  _run(cut, names)
  results = json.loads((tmp_path / 'runs/cut/results.json').read_text())
  assert [row['depth'] for row in results['rows']] == [10, 4]
  images = (names['images'] - names['mean']) / names['std']
  logits = names['Whole'](1).apply(names['own'], images, False)
  right = logits.argmax(-1) == names['labels']
  assert right[64:].mean() == pytest.approx(results['rows'][1]['accuracy'])
  _run(of_nnx, names)


@pytest.mark.slow
def test_own_loop_example_minimises_eq_1(capsys):
  *_, loop = _examples()
  assert len([line for line in loop.splitlines() if line]) <= 25
  names = {'__name__': 'readme'}
  _run(loop, names)
  values = [float(line) for line in capsys.readouterr().out.splitlines()]
  assert len(values) == 10
  assert values[-1] < values[0]
  assert values[0] == pytest.approx(float(_eq_1(names)), rel=1e-5)


def _eq_1(names):
  """Of the loop's first step: α 0.95, β 0.75, τ 6, every block by itself."""
  teacher, student = names['teacher'], names['student']
  x, y = names['x'], names['y']
  first = jax.jit(student.init)(jax.random.key(3), x)

  def part(*args, **kwargs):
    out, _ = student.apply(
      first, *args, train=True, mutable=['batch_stats'], **kwargs
    )
    return out

  q, irs = teacher.apply(names['trained'], x)
  p, own = part(x)
  outputs = [own[1]]
  outputs += [part(irs[i], i, method='block') for i in (1, 2)]
  ir = sum(
    jnp.square(s - t).mean() for s, t in zip(outputs, irs[1:], strict=True)
  )
  hard = -jax.nn.log_softmax(p)[np.arange(len(y)), y].mean()
  soft = -(jax.nn.softmax(q / 6) * jax.nn.log_softmax(p / 6)).sum(-1).mean()
  kd = 0.95 * hard + 0.05 * 36 * soft
  return 0.75 * kd + 0.25 * ir


def _commands():
  """The arguments of each `lit-jax` command that the README shows."""
  text = README.read_text().replace('\\\n', ' ')
  lines = re.findall(r'^\.venv/bin/lit-jax (.*)$', text, re.MULTILINE)
  return [shlex.split(line) for line in lines]


def test_every_command_is_one():
  names = [command.parser().parse_args(args).command for args in _commands()]
  assert set(COMMANDS) == set(names)


def test_commands_that_only_tell_something(lit_jax_command):
  telling = [
    args
    for args in _commands()
    if args[0] in ('check', 'data', 'models', 'summary')
  ]
  assert len(telling) == 4
  for args in telling:
    code, out, err = lit_jax_command(*args)
    assert (code, err) == (0, '') and out, args


def test_tables_are_narrow():
  for line in README.read_text().splitlines():
    if line.startswith('|'):
      assert line.count('|') <= 6, line


def test_every_configuration_that_is_named_exists():
  root = README.parent
  named = set()
  for path in (README, root / 'Makefile', *(root / 'docs').glob('*.md')):
    named |= set(re.findall(r'experiments/configs/\w+\.py', path.read_text()))
  assert len(named) >= 5
  for config in named:
    assert (root / config).is_file(), config
