"""Networks that come with the package, and with the project."""

import pathlib

from lit_jax import models
from lit_jax.data.images import sources
from lit_jax.networks import saved
from lit_jax.runs import teachers
from lit_jax.tasks import Classify


def test_embedded_teacher_knows_images_it_was_not_trained_on():
  data = sources.load('fashion_mnist_mini')
  facts, variables = saved.load(saved.embedded(data.name))
  evaluate = Classify(10).evaluator(
    models.build(facts.spec), data.preprocess, data.splits['test']
  )
  # 93.5 % of all 10,000 test images; these 1,000 are a sample of them, whose
  # accuracy has a standard error of 0.8 points.
  assert facts.row['accuracy'] == 0.935
  assert 0.91 < evaluate({'student': variables}).numbers['accuracy'] < 0.96


def test_a_student_is_found_by_its_name(tmp_path, monkeypatch):
  students = tmp_path / 'students'
  (students / 'small').mkdir(parents=True)
  (students / 'small' / 'network.json').write_text('{}')
  monkeypatch.setattr(saved, 'STUDENTS', students)
  monkeypatch.chdir(tmp_path)
  assert saved.find('small') == students / 'small'
  assert teachers.given_folder('small', 'any') == students / 'small'
  # Whatever lies at the path itself goes first, and other names stay paths.
  assert saved.find('other') == pathlib.Path('other')
  assert saved.find('runs/small') == pathlib.Path('runs/small')
  (tmp_path / 'small').mkdir()
  assert saved.find('small') == pathlib.Path('small')


def test_the_packages_teacher_is_found_by_its_data():
  folder = saved.embedded('fashion_mnist')
  for name in ('embedded/fashion_mnist', 'embedded/fashion_mnist_mini'):
    assert saved.find(name) == teachers.given_folder(name, 'any') == folder
  assert saved.load(name)[0].spec['depth'] == 20
  assert saved.find('embedded/mine') == pathlib.Path('embedded/mine')
