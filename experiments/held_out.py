"""Choosing on held-out training examples: those, and a teacher without them.

What chooses, such as `tune.py` and `allocate.py`, must read no test example.
"""

import json
import pathlib
import sys
from collections.abc import Callable

from absl import flags

from experiments import recipes
from lit_jax.data.dataset import Dataset
from lit_jax.errors import UserError
from lit_jax.networks import saved
from lit_jax.runs import teachers
from lit_jax.runs.phases import TEACHER

_HELD_OUT = flags.DEFINE_integer(
  'held_out', 0, 'Training examples; 0 is config.validation, or a tenth.'
)

HAS_SEEN, MAY_HAVE_SEEN = 'has seen', 'may have seen'


def check(
  config: recipes.Config,
  workdir: pathlib.Path,
  alone: str,
  population: str,
  compare: str,
) -> None:
  """Raises UserError for what has no place in a recipe that is chosen for.

  Args:
    config: the recipe.
    workdir: of the runs by which is chosen.
    alone: why there is no sequence, such as 'a sweep trains one student'.
    population: why there is none of the recipe's own.
    compare: who compares networks, such as 'a sweep compares'.
  """
  for key in ('seed', 'alpha', 'beta', 'temperature'):
    if config.population[key]:
      raise UserError(
        f'population.{key} is {config.population[key]!r}; {population}, leave '
        'it empty'
      )
  if config.sequence:
    raise UserError(f'sequence is {config.sequence!r}; {alone}, leave it empty')
  if config.select != 'last':
    raise UserError(
      f"select is {config.select!r}; {compare} last epochs' networks, take "
      'select=last'
    )
  if (workdir / 'config.json').exists():
    raise UserError(
      f'{workdir} is the workdir of a run; choose another --workdir'
    )


def wanted() -> int:
  """What the flag asks for; 0 takes the recipe's, or a tenth of all.

  Raises:
    UserError: it is negative.
  """
  if _HELD_OUT.value < 0:
    raise UserError(f'--held_out={_HELD_OUT.value}; give 1 or more')
  return _HELD_OUT.value


def count(config: recipes.Config, wanted: int) -> int:
  """How many examples are held out.

  Args:
    config: the recipe.
    wanted: as the flag has it.

  Raises:
    UserError: data that cannot be read.
  """
  return (
    wanted
    or config.validation
    or max(1, recipes.training_examples(config) // 10)
  )


def recipe(config: recipes.Config, examples: int) -> recipes.Config:
  """A copy that is scored on so many held-out examples, by our rows alone."""
  own = config.copy_and_resolve_references()
  own.validation, own.score_on = examples, recipes.VALIDATION
  own.stitch = False  # of a network that is thrown away
  if 'baseline' in own:
    own.baseline = ''
  return own


def teacher(
  config: recipes.Config,
  workdir: pathlib.Path,
  examples: int,
  dataset: Dataset,
  train: Callable[[recipes.Config, pathlib.Path], object],
) -> str:
  """The teacher's folder, or 'embedded'; one that is not given is trained.

  Args:
    config: the recipe.
    workdir: below which it is trained, without the held-out examples.
    examples: how many are held out.
    dataset: of which.
    train: makes a run in a folder.
  """
  given = config.teacher.get('checkpoint', '')
  if not given:
    print(f'teacher: learns without the {examples} held-out examples')
    own = recipe(config, examples)
    own.method = ''
    train(own, workdir / TEACHER)
    return str(workdir / TEACHER)
  if seen := seen_by(given, dataset, examples):
    print(
      f'warning: the teacher {given} {seen} the {examples} held-out examples '
      'in its own training; without teacher.checkpoint one is trained that has '
      'not',
      file=sys.stderr,
    )
  return given


def seen_by(teacher: str, dataset: Dataset, examples: int) -> str:
  """Whether a teacher learned from held-out examples.

  A teacher that was trained in a workdir has not if that run held out as many
  examples of the same data, or more: `hold_out` takes the same ones first.

  Args:
    teacher: as `teachers.given_folder` takes it; the embedded one learned from
      all training examples.
    dataset: of which they are held out.
    examples: how many.

  Returns:
    HAS_SEEN; MAY_HAVE_SEEN, where it is not known; or '' where it has not.
  """
  of_package = saved.embedded(dataset.name)
  if teacher == saved.EMBEDDED or saved.find(teacher) == of_package:
    return HAS_SEEN
  folder = teachers.given_folder(teacher, dataset.name).absolute()
  try:
    config, data = (
      json.loads((folder.parents[1] / name).read_text())
      for name in ('config.json', 'data.json')
    )
    same = bool(dataset.content) and data['content'] == dataset.content
    own, part = config['validation'], config.get('train_examples', 0)
  except (OSError, ValueError, TypeError, KeyError, IndexError):
    return MAY_HAVE_SEEN
  # A student's own teacher may have seen more.
  if not same or folder.name != TEACHER:
    return MAY_HAVE_SEEN
  if own >= examples:
    return ''
  return MAY_HAVE_SEEN if part else HAS_SEEN
