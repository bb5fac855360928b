"""What the README and the pages of docs/ show works as it stands there."""

import importlib
import json
import pathlib
import re
import shlex
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from commands import COMMANDS
from flax import traverse_util

from experiments import recipes
from lit_jax import command
from lit_jax.networks import saved

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / 'README.md'
PAGES = (README, *sorted((ROOT / 'docs').glob('*.md')))


def _examples(page):
  """The Python that a page shows."""
  return re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)


def _run(code, names):
  exec(compile(code, 'a page', 'exec'), names)


# Python.


def test_every_page_with_python_has_a_test():
  found = {page.name for page in PAGES if _examples(page)}
  assert found == {'README.md', 'own-network.md', 'tutorial.md', 'export.md'}


def _accuracy(folder):
  """Of the student, in a run's results."""
  results = json.loads((folder / 'results.json').read_text())
  return results['rows'][1]['accuracy']


@pytest.mark.slow
def test_the_readmes_python(tmp_path, monkeypatch):
  (compress,) = _examples(README)
  monkeypatch.chdir(tmp_path)
  _run(compress, {'__name__': 'readme'})
  assert _accuracy(tmp_path / 'runs/python') > 0.3


@pytest.mark.slow
def test_the_tutorial(tmp_path, monkeypatch, capsys, lit_jax_command):
  page = ROOT / 'docs/tutorial.md'
  use, of_program = _examples(page)
  compress, report, export = _commands(page, 'compress', 'report', 'export')
  monkeypatch.chdir(tmp_path)
  # Fewer epochs than the page has.
  for args in ((*compress, '--epochs=2'), report):
    told = lit_jax_command(*args)
    assert told[0] == 0, told
  accuracy = _accuracy(tmp_path / 'runs/tutorial')
  assert accuracy > 0.3
  names = {'__name__': 'tutorial'}
  _run(use, names)
  told = lit_jax_command(*export)
  assert told[0] == 0, told
  capsys.readouterr()
  _run(of_program, names)
  printed = float(capsys.readouterr().out)
  assert printed == pytest.approx(accuracy, abs=2e-3)
  logits = names['logits'].argmax(-1)
  assert (logits == names['test'].labels).mean() == pytest.approx(accuracy)


@pytest.mark.slow
def test_the_notebook(tmp_path, monkeypatch):
  content = json.loads((ROOT / 'docs/tutorial.ipynb').read_text())
  cells = [c for c in content['cells'] if c['cell_type'] == 'code']
  assert all(not c['outputs'] for c in cells)
  monkeypatch.chdir(tmp_path)
  names = {'__name__': '__main__'}
  for cell in cells:
    _run(''.join(cell['source']), names)
  assert names['accuracy'] == pytest.approx(names['row']['accuracy'])


@pytest.mark.slow
@pytest.mark.parametrize(
  'place, to, package',
  [
    (0, 'safetensors', 'safetensors'),
    (1, 'stablehlo', 'flatbuffers'),
    (2, 'onnx', 'jax2onnx'),
  ],
)
def test_readers_of_exported_files(
  place, to, package, tmp_path, monkeypatch, lit_jax_command
):
  pytest.importorskip(
    package, reason=f"needs {package}: pip install -e '.[{to}]'"
  )
  monkeypatch.chdir(tmp_path)
  student = 'resnet-8-fashion-mnist-mini'
  told = lit_jax_command('export', student, f'--to={to}', f'--out=net.{to}')
  assert told[0] == 0, told
  images = np.zeros((2, 28, 28, 1), np.float32)
  names = {'__name__': 'export', 'images': images, 'jax': jax}
  _run(_examples(ROOT / 'docs/export.md')[place], names)
  facts, variables = saved.load(student)
  del facts
  bias = variables['params']['head']['dense']['bias']
  assert names['logits'].shape == (2, *bias.shape)


OWN = ROOT / 'docs/own-network.md'


@pytest.mark.slow
def test_own_network_example_runs(tmp_path, monkeypatch):
  network, load, cut, of_nnx, _ = _examples(OWN)
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
  *_, loop = _examples(OWN)
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


# Commands.


def _lines(page, start):
  """The commands of a page that begin so, without that beginning."""
  text = page.read_text().replace('\\\n', ' ')
  found = re.findall(rf'^(?:\.venv/bin/)?{start} (.*)$', text, re.MULTILINE)
  return [shlex.split(line.split('  #')[0]) for line in found]


def _commands(page, *names):
  """The arguments of its `lit-jax` commands; of those names, or of all."""
  return [
    args for args in _lines(page, 'lit-jax') if not names or args[0] in names
  ]


def test_every_command_is_one():
  commands = [args for page in PAGES for args in _commands(page)]
  names = [command.parser().parse_args(args).command for args in commands]
  assert set(COMMANDS) == set(names)


@pytest.mark.slow
def test_commands_that_only_tell_something(lit_jax_command):
  telling = {
    # Measured elsewhere.
    (*args, *(['--no_measure'] if args[0] == 'check' else []))
    for page in PAGES
    for args in _commands(page, 'check', 'data', 'models', 'summary')
  }
  assert len(telling) >= 5
  for args in telling:
    code, out, err = lit_jax_command(*args)
    assert (code, err) == (0, '') and out, args


def _experiments():
  return [
    args
    for page in PAGES
    for args in _lines(page, r'(?:srun )?python -m')
    if args[0].startswith('experiments.')
  ]


def test_every_flag_of_an_experiment_is_one():
  """Those of its module, and the keys of the configuration that it names."""
  found = _experiments()
  assert len(found) >= 10
  for module, *given in found:
    _import(module)
    config = None
    for flag in given:
      if not flag.startswith('--'):
        continue
      name, _, value = flag[2:].partition('=')
      if name == 'config':
        config = _config(value)
      elif name.startswith('config.'):
        keys = traverse_util.flatten_dict(config.to_dict(), sep='.')
        assert name.removeprefix('config.') in keys, (module, flag)
      else:
        assert name in ('flagfile', *flags.FLAGS), (module, flag)


def _import(module):
  try:
    importlib.import_module(f'{module}.__main__')
  except ImportError:
    importlib.import_module(module)


def _config(path):
  name = path.removesuffix('.py').replace('/', '.')
  config = importlib.import_module(name).get_config()
  recipes.check(config)
  return config


# Tables, links, the site.


def test_tables_are_narrow():
  for line in README.read_text().splitlines():
    if line.startswith('|'):
      assert line.count('|') <= 6, line


def test_every_configuration_that_is_named_exists():
  named = set()
  for path in (ROOT / 'Makefile', *PAGES):
    named |= set(re.findall(r'experiments/configs/\w+\.py', path.read_text()))
  assert len(named) >= 5
  for config in named:
    assert (ROOT / config).is_file(), config


def test_every_link_leads_somewhere():
  for page in PAGES:
    for link in re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)', page.read_text()):
      assert (page.parent / link).exists(), f'{page.name}: {link}'


def test_every_page_is_on_the_site(tmp_path):
  """Built as it stands, with every link and anchor."""
  listed = re.findall(
    r': ([\w-]+\.md)$', (ROOT / 'mkdocs.yml').read_text(), re.M
  )
  assert sorted(listed) == sorted(p.name for p in PAGES if p != README)
  pytest.importorskip('mkdocs', reason="needs mkdocs: pip install -e '.[docs]'")
  made = subprocess.run(
    [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-d', tmp_path],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert made.returncode == 0, made.stderr
  reference = (tmp_path / 'reference/index.html').read_text()
  for name in ('lit_jax.compress', 'lit_jax.Objective', 'lit_jax.lit_loss'):
    assert f'id="{name}"' in reference
