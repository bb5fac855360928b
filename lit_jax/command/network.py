"""NETWORK on a command line: a saved network, a family, or one of one's own.

  runs/demo/lit/student              a folder that holds a saved network
  runs/demo                          a run's folder, whose teacher is meant
  resnet-8-fashion-mnist-mini        a student that comes with the project
  embedded/fashion_mnist             a teacher that comes with the package
  resnet,depth=20,units=18:3:3       a family of lit_jax, and its options
  my_package.nets:plain,depth=3      a function that returns a BlockNet

`family.py` says how the last two are read.
"""

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from lit_jax import models
from lit_jax.blocks import BlockNet
from lit_jax.command import family
from lit_jax.errors import UserError, near, shown
from lit_jax.networks import saved
from lit_jax.runs import checks, teachers
from lit_jax.training.precision import POLICIES, policy

HELP = (
  'a folder of a saved network, or of a run, whose teacher is then meant; a '
  "student's name, or embedded/DATA for the package's teacher; "
  'FAMILY,KEY=VALUE,… such as resnet,depth=20,units=18:3:3; or the import path '
  'of a function, my_package.nets:plain,depth=3'
)


def add_pair(parser: argparse.ArgumentParser) -> None:
  """Adds what commands of two networks take: their names, and a precision."""
  add = parser.add_argument
  add('teacher', metavar='TEACHER', help=HELP)
  add('student', metavar='STUDENT', help='likewise')
  add(
    '--precision', default='fp32', metavar='|'.join(POLICIES),
    help='that the networks compute in (default: fp32)',
  )  # fmt: skip


class Named(NamedTuple):
  """A network that was named.

  Attributes:
    text: its name, as it was written.
    spec: what `models.build` makes it from.
    folder: where it is saved; None where a family was named.
  """

  text: str
  spec: dict[str, Any]
  folder: pathlib.Path | None

  @property
  def given(self) -> dict[str, Any] | pathlib.Path:
    """As `lit_jax.compress` takes it."""
    return self.spec if self.folder is None else self.folder

  @property
  def title(self) -> str:
    """As tables have it."""
    return models.title(self.spec)

  @property
  def shared(self) -> dict[str, Any]:
    """What a student has from it where its own name does not say."""
    return {key: self.spec[key] for key in family.SHARED if key in self.spec}

  def build(self, precision: str = 'fp32') -> BlockNet:
    """The network, computing in that precision.

    Raises:
      UserError: as `models.build`, or it cannot read its example.
    """
    net = models.build(self.spec, policy(precision).dtype)
    checks.check_reads(self.text, net)
    return net


def find(text: str, usual: Mapping[str, Any] | None = None) -> Named:
  """The network of a name.

  Args:
    text: the name, as at the head of this file.
    usual: options in `family.SHARED` that a family is built with where its name
      does not say; by default the family's own.

  Raises:
    UserError: there is no such network, family or option, a value is of another
      type, or the saved network is damaged or of a family of one's own.
  """
  folder = _folder(text)
  if folder is not None:
    # All of it is read here, so that what is damaged is found at once.
    facts, _ = saved.load(folder)
    return Named(text, dict(facts.spec or {}), folder)
  if text not in models.FAMILIES and not set(text) & set(':,'):
    raise UserError(
      f'no network {shown(text)}{near(text, models.FAMILIES)}; name a folder '
      'such as WORKDIR/lit/student, or a family such as resnet,depth=20 '
      '(lit-jax models lists them)'
    )
  return Named(text, family.spec(text, usual or {}), None)


def _folder(text: str) -> pathlib.Path | None:
  """The folder of a saved network, or whatever else lies there; else None."""
  try:
    folder = teachers.of_name(text)
    # Nothing would be the current folder.
    return folder if text and folder.exists() else None
  except (OSError, RuntimeError):  # No path, or of nobody's home.
    return None
