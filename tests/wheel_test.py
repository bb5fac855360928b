"""The wheel: what is installed works without the checkout."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from commands import assert_listed

ROOT = pathlib.Path(__file__).parents[1]
PARTS = (
  'lit_jax', 'LICENSE', 'README.md', 'pyproject.toml', 'requirements.txt',
  'setup.cfg',
)  # fmt: skip


def _pip(*args, cwd):
  done = subprocess.run(
    [
      sys.executable, '-m', 'pip', '--disable-pip-version-check', *args,
      '--no-deps', '--no-index',
    ],
    cwd=cwd, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """The folder in which the wheel of this checkout is installed."""
  pytest.importorskip(
    'setuptools', '77', reason='needs setuptools 77 to build a wheel'
  )
  folder = tmp_path_factory.mktemp('wheel')
  # A copy, for a build leaves files beside what it builds.
  (folder / 'source').mkdir()
  for name in PARTS:
    part, copy = ROOT / name, folder / 'source' / name
    if part.is_dir():
      ignored = shutil.ignore_patterns('__pycache__')
      shutil.copytree(part, copy, ignore=ignored)
    else:
      shutil.copy(part, copy)
  _pip('wheel', '--no-build-isolation', './source', cwd=folder)
  (wheel,) = folder.glob('lit_jax-*.whl')
  _pip('install', '--target', 'target', str(wheel), cwd=folder)
  return folder / 'target'


def _run(installed, *args):
  """Of what is installed: exit code, stdout and stderr."""
  done = subprocess.run(
    [sys.executable, *args],
    # Neither the checkout nor its tests.
    cwd=installed.parent,
    env=os.environ | {'PYTHONPATH': str(installed), 'JAX_PLATFORMS': 'cpu'},
    capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_commands_of_a_wheel(installed):
  code, out, err = _run(
    installed, '-c', 'import lit_jax; print(lit_jax.__file__)'
  )
  assert (code, err) == (0, '')
  assert pathlib.Path(out.strip()).is_relative_to(installed)
  # Written by pip, with the Python that it ran in.
  script = str(installed / 'bin' / 'lit-jax')
  code, out, err = _run(installed, script, '--help')
  assert (code, err) == (0, '')
  assert_listed(out)
  code, out, err = _run(installed, script, 'models')
  assert (code, err) == (0, '')
  assert out.startswith('resnet depth:int=20 ')
  for network, parameters in (
    ('resnet,depth=20', '269,722'),
    # What comes with the package.
    ('embedded/fashion_mnist', '269,434'),
  ):
    code, out, err = _run(installed, script, 'summary', network)
    assert (code, err) == (0, '')
    assert parameters in out
  code, out, err = _run(installed, script, 'summary', 'resnat')
  assert code == 2 and err.count('\n') == 1
