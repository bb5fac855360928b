"""How networks are named on a command line, and what is said of them."""

import re
import sys

import jax
import pytest
from flax import linen as nn

from lit_jax import blocks, models
from lit_jax.command import family, network
from lit_jax.data import sources
from lit_jax.networks import saved
from lit_jax.networks.summary import summary

STUDENT = 'resnet-8-fashion-mnist-mini'
needs_students = pytest.mark.skipif(
  not saved.STUDENTS.is_dir(), reason='needs a checkout with students/'
)
OWN = """\
import jax
from flax import linen as nn
from lit_jax import BlockNet


class Part(nn.Module):
  count: int

  @nn.compact
  def __call__(self, h, train=False):
    for _ in range(self.count):
      h = nn.Dense(3)(h)
    return h


class Head(nn.Module):
  classes: int

  @nn.compact
  def __call__(self, h, train=False):
    return nn.Dense(self.classes)(h)


def plain(depth, classes: int = 3, input_shape=(4,), slope=.5, name='a'):
  assert isinstance(depth, int) and isinstance(slope, float), (depth, slope)
  example = jax.ShapeDtypeStruct(tuple(input_shape), 'float32')
  parts = (Part(depth), Part(depth))
  return BlockNet(Part(1), parts, Head(classes), example)


def broken(depth=1):
  raise ValueError('the moon is\\nfull')


def anything(**options):
  return options


number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
  """A module of the user's own in the current folder."""
  (tmp_path / 'moon_nets.py').write_text(OWN)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('sys.path', list(sys.path))
  yield
  sys.modules.pop('moon_nets', None)


# Names.


@pytest.mark.parametrize(
  'text, spec',
  [
    (
      'resnet,depth=14',
      {'depth': 14, 'classes': 10, 'input_shape': (32, 32, 3),
       'shortcut': 'pad'},
    ),
    (
      'resnet,units=1:2:3,classes=7,input_shape=8x8x1,shortcut=conv',
      {'units': [1, 2, 3], 'classes': 7, 'input_shape': [8, 8, 1],
       'shortcut': 'conv'},
    ),
    (
      'vdcnn,depth=9,input_shape=64,shortcut=True,widths=8x8x8x8,k=2',
      {'depth': 9, 'classes': 2, 'input_shape': [64], 'shortcut': True,
       'widths': [8, 8, 8, 8], 'k': 2, 'downsample': 'max_pool',
       'hidden': 2048, 'embedding': 16},
    ),
  ],
)  # fmt: skip
def test_a_family_and_its_options(text, spec):
  found = network.find(text)
  assert found.spec == {'family': text.partition(',')[0]} | spec
  assert found.folder is None


def test_what_a_name_does_not_say_is_as_usual():
  usual = {'classes': 4, 'input_shape': [8, 8, 1]}
  assert network.find('resnet', usual).spec['classes'] == 4
  assert network.find('resnet', usual).spec['input_shape'] == [8, 8, 1]
  assert network.find('resnet,classes=9', usual).spec['classes'] == 9
  # It has no classes.
  assert 'classes' not in network.find('stargan', usual).spec


@pytest.mark.usefixtures('own')
def test_a_network_of_ones_own(lit_jax_command):
  found = network.find('moon_nets:plain,depth=2,slope=1e-2')
  assert found.spec == {
    'family': 'moon_nets:plain', 'depth': 2, 'slope': 0.01,
  }  # fmt: skip
  code, out, err = lit_jax_command('summary', 'moon_nets:plain,depth=2')
  assert (code, err) == (0, '')
  # 4 x 3 weights of the stem, 3 x 3 of the other five, and 3 biases each.
  (total,) = (line for line in out.splitlines() if 'total' in line)
  assert total.split() == ['total', '6', '75', '57']
  assert out.startswith('plain-2\n')


@pytest.mark.usefixtures('own')
def test_values_that_nothing_is_known_of():
  spec = network.find('moon_nets:anything,a=1,b=x,c=1:2,d=True,e=1.5').spec
  assert spec == {
    'family': 'moon_nets:anything',
    'a': 1, 'b': 'x', 'c': [1, 2], 'd': True, 'e': 1.5,
  }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
  """A run's folder, with a teacher of five classes."""
  spec = {
    'family': 'resnet',
    'depth': 8,
    'classes': 5,
    'input_shape': [8, 8, 1],
  }
  variables = jax.tree.map(
    lambda leaf: jax.numpy.ones(leaf.shape), blocks.shapes(models.build(spec))
  )
  facts = saved.Facts(spec, 'mine', [], {'kind': 'as is'}, 'fp32', '', {})
  saved.save(tmp_path / 'run' / 'teacher' / 'teacher', facts, variables)
  return tmp_path / 'run'


def test_a_folder_and_that_of_a_run(folder):
  inside = folder / 'teacher' / 'teacher'
  for text in (folder, inside):
    found = network.find(str(text))
    assert found.folder == inside
    assert found.spec['classes'] == 5
  assert found.shared == {'classes': 5, 'input_shape': [8, 8, 1]}


def test_a_teacher_of_the_package():
  for name in ('fashion_mnist', 'fashion_mnist_mini'):
    found = network.find(f'embedded/{name}')
    assert found.folder == saved.embedded(name)
    assert found.title == 'resnet-20'


@needs_students
def test_a_student_of_the_project():
  found = network.find(STUDENT)
  assert found.folder == saved.STUDENTS / STUDENT
  assert found.title == 'resnet-8'


def test_a_title_of_odd_options():
  spec = {'family': 'nets:plain', 'units': 3, 'cardinality': 2, 'inner': 'a'}
  assert models.title(spec) == 'plain'


# What is said.


@pytest.mark.parametrize('text', ['resnet,depth=20', 'resnext,units=1:1:2'])
def test_the_table_of_a_network(text, lit_jax_command):
  code, out, err = lit_jax_command('summary', text)
  assert (code, err) == (0, '')
  named = network.find(text)
  assert out == f'{named.title}\n{summary(named.build())}\n'


def test_the_numbers_of_a_published_network(lit_jax_command):
  # 0.27 M and 41 M of He et al. 2016, counted exactly.
  _, out, _ = lit_jax_command('summary', 'resnet,depth=20')
  (total,) = (line for line in out.splitlines() if 'total' in line)
  assert total.split() == ['total', '20', '269,722', '40,551,040']


def test_all_families_are_listed_with_their_defaults(lit_jax_command):
  code, out, err = lit_jax_command('models')
  assert (code, err) == (0, '')
  lines = [line.split(' ') for line in out.splitlines()]
  assert [name for name, *_ in lines] == [*models.FAMILIES]
  assert 'units:ints=' in lines[0] and 'input_shape:ints=32x32x3' in lines[0]
  for name, *options in lines:
    told = [re.sub(':[a-z]+=', '=', option) for option in options]
    # What is listed can be written, and changes nothing.
    whole, bare = network.find(','.join([name, *told])), network.find(name)
    assert _listed(whole.spec) == _listed(bare.spec)


def _listed(spec):
  return {
    k: list(v) if isinstance(v, tuple | list) else v
    for k, v in spec.items()
    if v not in ((), [])
  }


def test_all_data_sets_are_listed(lit_jax_command, monkeypatch):
  monkeypatch.setenv('LIT_JAX_DATA', '/somewhere')
  code, out, err = lit_jax_command('data')
  assert (code, err) == (0, '')
  *lines, where = out.splitlines()
  assert [line.split()[0] for line in lines] == [*sources.NAMES]
  assert '/somewhere' in where
  packaged = [line.split()[0] for line in lines if 'comes with' in line]
  assert packaged == ['fashion_mnist_mini', 'emoji_portraits']


# Bad input.


@pytest.mark.usefixtures('own')
@pytest.mark.parametrize(
  'text, fault',
  [
    ('', 'no network'),
    ('resnat', "perhaps 'resnet'"),
    ('resnat,depth=8', "unknown model 'resnat'; perhaps 'resnet'"),
    ('runs/none', "no network 'runs/none'"),
    ('~nobody-of-that-name/x', 'no network'),
    ('a' * 5000, 'no network'),
    ('.', 'no readable network in .'),
    ('embedded/cifar10', 'no network'),
    ('resnet,depht=8', "unknown option of resnet 'depht'; perhaps 'depth'"),
    ('resnet,dtype=8', "unknown option of resnet 'dtype'"),
    ('resnet,family=8', 'no option, or one that is given twice'),
    ('resnet,depth=8,depth=8', 'no option, or one that is given twice'),
    ('resnet,depth', "'depth' is no option"),
    ('resnet,', "'' is no option"),
    ('resnet,depth=8.0', "depth is '8.0'; it must be an integer"),
    ('resnet,units=a:b:c', "units is 'a:b:c'; it must be integers such as"),
    ('resnet,depth=9', 'is not of the form 6n+2'),
    ('resnet,input_shape=32', 'ResNets read images'),
    ('vdcnn,shortcut=yes', "shortcut is 'yes'; it must be True or False"),
    ('no_such_module:plain', "model 'no_such_module:plain' cannot be imported"),
    ('moon_nets:none,depth=1', 'cannot be imported'),
    ('moon_nets:number', 'is a int, no function'),
    ('moon_nets:plain', "missing a required argument: 'depth'"),
    ('moon_nets:plain,dept=1', "unknown option of moon_nets:plain 'dept'"),
    ('moon_nets:plain,classes=a', "classes is 'a'; it must be an integer"),
    ('moon_nets:broken', 'model moon_nets:broken: the moon is'),
    ('moon_nets:anything,a=1', 'it returns a dict, not a BlockNet'),
    ('resnet,base_width=4', "unknown option of resnet 'base_width'"),
    ('resnet,depth=8,classes=-3', 'cannot read its example'),
  ],
)  # fmt: skip
def test_a_wrong_name_is_a_line_and_code_2(text, fault, lit_jax_command):
  code, out, err = lit_jax_command('summary', text)
  assert (code, out) == (2, ''), err
  assert fault in err and err.count('\n') == 1, err


def test_a_file_may_not_name_code(folder, lit_jax_command):
  path = folder / 'teacher' / 'teacher' / 'network.json'
  path.write_text(path.read_text().replace('"resnet"', '"os:getcwd"'))
  code, out, err = lit_jax_command('summary', folder)
  assert (code, out) == (2, '')
  assert 'which is no part of lit_jax' in err and err.count('\n') == 1


def test_kinds_of_annotations():
  def take(a: float, b, c: 'int', d: nn.Module, e: tuple[int, ...] = ()):
    del a, b, c, d, e

  found = family.keys(take) or {}
  kinds = [family.kind(own) for own in found.values()]
  assert kinds == ['float', 'any', 'any', 'any', 'ints']
