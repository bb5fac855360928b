"""What is installed: lit_jax, all of it, and nothing beside it."""

import configparser
import pathlib

ROOT = pathlib.Path(__file__).parents[1]


def _options():
  options = configparser.ConfigParser()
  options.read(ROOT / 'setup.cfg')
  return options


def test_every_folder_of_modules_is_a_package():
  folders = {path.parent for path in (ROOT / 'lit_jax').rglob('*.py')}
  assert ROOT / 'lit_jax' / 'runs' in folders
  for folder in folders:
    assert (folder / '__init__.py').is_file(), folder


def test_nothing_but_lit_jax_is_installed():
  assert _options()['options.packages.find']['include'] == 'lit_jax*'


def test_files_beside_the_modules_are_installed():
  known = _options()['options.package_data']['lit_jax'].split()
  package = ROOT / 'lit_jax'
  installed = {path for glob in known for path in package.glob(glob)}
  others = {
    path
    for path in package.rglob('*')
    if path.is_file() and path.suffix not in ('.py', '.pyc')
  }
  assert others
  assert others <= installed
