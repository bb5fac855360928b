"""`lit-jax` writes networks that teach, and tells of bad input in a line."""

import configparser
import pathlib

import jax
import numpy as np
import pytest
import state_dicts
from commands import COMMANDS, assert_listed

from lit_jax import models
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.images import class_names
from lit_jax.data.preprocess import ImagePreprocess
from lit_jax.networks import pytorch, saved
from lit_jax.runs import teachers
from lit_jax.tasks import Classify

MEAN, STD = '--mean=.49,.48,.45', '--std=.25,.24,.26'


@pytest.fixture
def weights(tmp_path):
  """A file with a ResNet-8 of option A, padded at the end."""
  layout = state_dicts.layout(1, 'A')
  return state_dicts.write(tmp_path, state_dicts.state(layout))


def _dataset():
  rng = np.random.default_rng(3)
  split = Split(
    rng.integers(0, 256, (4, 32, 32, 3), np.uint8),
    rng.integers(0, 10, 4, np.int32),
  )
  # Another normalisation than the teacher's.
  preprocess = ImagePreprocess((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
  return Dataset(
    'noise', {'train': split, 'test': split}, 10, preprocess,
    class_names.CIFAR10,
  )  # fmt: skip


def test_an_imported_network_teaches(weights, lit_jax_command, tmp_path):
  folder = tmp_path / 'nets' / 'teacher'
  names = ','.join(class_names.CIFAR10)
  code, out, err = lit_jax_command(
    'import', weights, '--depth=8', '--classes=10', '--shortcut=A',
    '--padding=end', MEAN, STD, f'--class_names={names}', f'--out={folder}',
    '--dataset=cifar10',
  )  # fmt: skip
  assert (code, err) == (0, '')
  assert (
    f'{folder}: resnet-8, 75290 parameters, 10 classes, images 32x32x3' in (out)
  )
  assert (
    f'--config.teacher.checkpoint={folder} --config.teacher.family=resnet '
    '--config.teacher.depth=8 --config.teacher.shortcut=pad' in out
  )
  assert 'no --class_names' not in out
  told = pytorch.Told(
    mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26), padding='end'
  )
  network = pytorch.load(weights, told=told)
  dataset = _dataset()
  # What a recipe asks for, with what the data decide.
  wanted = {'family': 'resnet', 'depth': 8, 'shortcut': 'pad'}
  wanted |= Classify(10).network_options(dataset)
  given = teachers.given_folder(str(folder), 'cifar10')
  teacher = teachers.read(given, dataset, 'fp32', wanted, Classify(10))
  images = dataset.splits['test'].inputs
  x = teacher.preprocess.normalize(images)
  mean, std = np.float32([0.49, 0.48, 0.45]), np.float32([0.25, 0.24, 0.26])
  np.testing.assert_allclose(x, (images / 255 - mean) / std, atol=1e-5)
  state = state_dicts.state(state_dicts.layout(1, 'A'))
  oracle = state_dicts.oracle(state, 1, 'end', np.asarray(x))
  facts, variables = saved.load(folder)
  assert facts.dataset == 'cifar10' and facts.precision == 'fp32'
  assert facts.spec == network.spec
  net = models.build(facts.spec)
  found = jax.jit(lambda v, x: net.apply(v, x)[0])(variables, x)
  np.testing.assert_allclose(found, oracle, rtol=0, atol=1e-4)


def test_what_is_printed_of_other_networks(lit_jax_command, tmp_path):
  state = state_dicts.state(state_dicts.layout(2, 'B'))
  state = {k: v for k, v in state.items() if not k.startswith('layer1.1.')}
  path = state_dicts.write(tmp_path, state)
  code, out, _ = lit_jax_command(
    'import', path, '--units=1,2,2', MEAN, STD, f'--out={tmp_path / "a"}'
  )
  assert code == 0
  assert (
    "'--config.teacher.units=(1,2,2)' --config.teacher.shortcut=conv" in out
  )
  assert 'no --class_names: that the data number the classes alike is' in out
  assert saved.load(tmp_path / 'a')[0].classes == []


def test_bad_input_is_a_line_and_code_2(weights, lit_jax_command, tmp_path):
  folder = tmp_path / 'net'
  usual = [weights, '--padding=end', MEAN, STD, f'--out={folder}']
  for args, fault in (
    ((), 'COMMAND'),
    (('convert',), "invalid choice: 'convert'"),
    (('import',), 'WEIGHTS, --out'),
    (('import', weights), 'required: --out'),
    (('import', *usual, '--dept=8'), 'unrecognized arguments: --dept=8'),
    (('import', *usual, '--depth=x'), 'argument --depth: invalid int value'),
    (('import', *usual, '--units=1,x'), "'1,x' are no numbers; write them as"),
    (('import', *usual, '--mean=a,b'), "'a,b' are no numbers; write them as"),
    (('import', *usual, '--depth=20'), 'depth told as 20, and the file says 8'),
    (('import', *usual[:-2], usual[-1]), 'does not say the std'),
    (('import', *usual, '--class_names=a,b'), 'has 2 names, and the network'),
    (('import', *usual, '--class_names=a,a'), 'an empty or a repeated name'),
    (('import', *usual, '--family=vdcnn'), "unknown family 'vdcnn'"),
    (('import', *usual, '--size=30'), 'not divisible by 4'),
    (('import', *usual, '--names=none.json'), 'names cannot be read'),
    (('import', 'none.safetensors', *usual[1:]), 'none.safetensors'),
    (('import', *usual[:-1], f'--out={tmp_path}'), 'is there already; name'),
    (('import', *usual[:-1], f'--out={weights}/a'), 'cannot be written ('),
  ):
    code, out, err = lit_jax_command(*args)
    assert (code, out) == (2, ''), args
    assert fault in err and err.count('\n') == 1, args
    assert not folder.exists()


def test_help_lists_what_there_is(lit_jax_command):
  code, out, _ = lit_jax_command('--help')
  assert code == 0
  assert_listed(out)
  for name in COMMANDS:
    assert lit_jax_command(name, '--help')[0] == 0
  code, out, _ = lit_jax_command('import', '--help')
  assert code == 0
  for flag in ('--mean', '--std', '--padding', '--class_names', '--names'):
    assert flag in out


def test_it_is_installed_by_its_name():
  options = configparser.ConfigParser()
  options.read(pathlib.Path(__file__).parents[1] / 'setup.cfg')
  scripts = options['options.entry_points']['console_scripts']
  assert scripts.strip() == 'lit-jax = lit_jax.command:main'
