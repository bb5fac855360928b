"""Where a student begins: with values that are drawn, or as a saved network."""

import pathlib
from typing import NamedTuple

import jax

from lit_jax.blocks import BlockNet
from lit_jax.data.preprocess import Preprocess
from lit_jax.errors import UserError
from lit_jax.networks import filters, saved
from lit_jax.runs import teachers
from lit_jax.runs.jobs import Job, Network, Student
from lit_jax.training.state import Variables


class Start(NamedTuple):
  """Attributes: the variables, on the host; what makes the network's inputs."""

  variables: Variables
  preprocess: Preprocess


def read(job: Job, student: Student) -> Start | None:
  """What a student begins as; None where its values are drawn.

  Where the student's units are narrower within than the saved network's, which
  is otherwise the same, the largest filters are chosen (`filters.narrow`).

  Raises:
    UserError: no such network, a damaged one, another one than the student, or
      one of other classes or data.
  """
  if student.variables is not None:
    return Start(_given(job, student), job.dataset.preprocess)
  if not student.start:
    return None
  folder = _folder(job, student)
  try:
    inner = _inner(student.network)
    wanted = _wanted(student.network, inner, saved.describe(folder).spec)
    found = teachers.read(folder, job.dataset, job.training.precision, wanted)
    variables = jax.device_get(found.variables)
    if wanted is not student.network:
      variables = filters.narrow(variables, inner)
  except UserError as error:
    raise UserError(f'the start of {student.method.name}: {error}') from None
  return Start(variables, found.preprocess)


def digests(job: Job) -> dict[str, str]:
  """The digest of the network that each student begins as, by method."""
  return {
    student.method.name: teachers.digest(
      student.variables, student.start, job.dataset.name
    )
    for student in job.students
    if student.start or student.variables is not None
  }


def _given(job, student) -> Variables:
  whose = student.method.name
  found = teachers.checked(whose, student.variables, job.build(student.network))
  return jax.device_get(found)


def _folder(job, student) -> pathlib.Path:
  return teachers.given_folder(student.start, job.dataset.name)


def _wanted(network, inner, found):
  """The student's specification, as wide within as the saved network is."""
  theirs = (found or {}).get('inner')
  # A file may say anything; what are no widths are those of another network.
  known = not theirs or (
    isinstance(theirs, list) and all(isinstance(own, int) for own in theirs)
  )
  if not inner or inner == theirs or not known:
    return network
  usual = {key: value for key, value in network.items() if key != 'inner'}
  return usual | ({'inner': theirs} if theirs else {})


def _inner(network: Network) -> list[int]:
  """The widths within that the student is to have; [] for the usual ones."""
  if isinstance(network, BlockNet) or network['family'] != 'resnet':
    return []
  return list(network.get('inner') or ())
