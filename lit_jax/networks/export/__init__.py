"""A student to production: files that other programs run.

Each file is read again by the program that it is for, and takes its name only
where that gives the student's classes and logits.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from lit_jax.blocks import describe
from lit_jax.errors import UserError, choose, first_line, reason, shown
from lit_jax.files import read_json, sync_folder, write_bytes, write_json
from lit_jax.networks import saved
from lit_jax.networks.export import student as students
from lit_jax.networks.export.formats import FORMATS, Format, variables
from lit_jax.networks.export.student import Student
from lit_jax.networks.latency import Latency, interleaved

__all__ = ['FORMATS', 'TOLERANCE', 'Exported', 'export', 'load']

TOLERANCE = 1e-4
"""By which logits may differ from the student's, at most."""
# Of the student's facts, those that stand beside the file.
_SAID = 'spec', 'dataset', 'classes', 'input', 'digest'
_TIMED = 1, 128  # inputs a call
_PROBED = 3  # inputs that are shown as a batch of another size


class Rounded(NamedTuple):
  """What weights of 8 bits cost.

  Attributes:
    equal: inputs to which the student of float32 gives the same class.
    accuracy: of the rounded student, and of that of float32; None where the
      inputs have no labels.
  """

  equal: int
  accuracy: tuple[float, float] | None


class Times(NamedTuple):
  """Attributes: inputs a call; the student's time, and the teacher's, ms."""

  batch: int
  student: Latency
  teacher: Latency


class Exported(NamedTuple):
  """What was written, and how near it is to the student.

  Attributes:
    path: of the file.
    beside: of the JSON that says what it must be fed with.
    facts: of the student.
    reader: what has read the file, and computed its logits.
    largest: difference of any logit.
    examples: how many were compared; their classes are all equal.
    inputs: what these are, in words.
    rounded: what 8 bits cost, where the weights have no more.
    times: beside another network's, where one was named.
  """

  path: pathlib.Path
  beside: pathlib.Path
  facts: saved.Facts
  reader: str
  largest: float
  examples: int
  inputs: str
  rounded: Rounded | None = None
  times: tuple[Times, ...] = ()


def export(
  network: str | os.PathLike[str],
  to: str,
  out: str | os.PathLike[str],
  preprocess: bool = False,
  int8: bool = False,
  against: str | os.PathLike[str] | None = None,
) -> Exported:
  """Writes a student as another program reads it, where that gives the same.

  Beside OUT a file of its name and `.json` says which network it is: 'spec',
  'dataset', 'classes', 'input' (the normalisation), 'digest' of the student's
  arrays, 'format', and 'preprocessed': whether the file normalises itself. With
  `int8` the student is the rounded one, and 'rounded_from' the other's digest.

  Args:
    network: a folder that `saved.save` wrote, or a name that `saved.find`
      knows.
    to: a key of FORMATS.
    out: the new file, with the format's suffix; its folder is made.
    preprocess: whether the file takes images as uint8 [n, h, w, c] of 0 to 255
      and normalises them itself; of formats that hold a program.
    int8: whether kernels are stored in 8 bits (int8.py).
    against: a network, such as the teacher, that is exported likewise, timed
      beside this one by the same reader, and not kept.

  Returns:
    What was written.

  Raises:
    UserError: no such network, or none that the format takes; an extra is
      missing; the file is there already or cannot be written; or what reads it
      does not give the student's classes, and its logits to TOLERANCE. Nothing
      is left then.
  """
  path = pathlib.Path(out).expanduser()
  kind = FORMATS[choose('format', to, FORMATS)]
  beside = _beside(path)
  _check_paths(path, beside, kind, to)
  exact = students.of(*saved.load(network), where=str(network))
  _check_kind(exact, kind, to, preprocess, int8)
  other = against and _other(against, exact, kind, to, preprocess)
  kind.needs()
  student = students.in_int8(exact) if int8 else exact
  try:
    with _new_folder(path) as folder:
      part = folder / path.name
      write_bytes(part, _encoded(student, kind, to, preprocess))
      write_json(_beside(part), _said(student, to, preprocess))
      inputs = students.inputs(student)
      fed = students.fed(student, inputs.raw)
      wanted = students.in_batches(students.run(student), fed)
      x = inputs.raw if preprocess else fed
      found = _compared(part, student, kind, x, wanted, preprocess)
      times = ()
      if other:
        beside_it = folder / f'other{path.suffix}'
        write_bytes(beside_it, _encoded(other, kind, to, preprocess))
        both = {part: student, beside_it: other}
        times = _timed(both, kind, inputs.raw, preprocess)
      _into_place(part, path)
    sync_folder(path.parent)
  except OSError as error:
    raise UserError(
      f'{path} cannot be written ({reason(error)}); name another by --out'
    ) from None
  return Exported(
    path, beside, student.facts, kind.reader(), found, len(inputs.raw),
    inputs.title, _rounded(exact, inputs, fed, wanted) if int8 else None, times,
  )  # fmt: skip


def _other(network, student: Student, kind, to, preprocess) -> Student:
  """A network that reads the same, to be timed beside the student."""
  other = students.of(*saved.load(network), where=str(network))
  _check_kind(other, kind, to, preprocess)
  if other.net.example != student.net.example:
    raise UserError(
      f'{network} reads {describe(other.net.example)}, and the network '
      f'{describe(student.net.example)}; name one that reads the same'
    )
  return other


def _rounded(exact: Student, inputs: students.Inputs, fed, logits) -> Rounded:
  """What it cost to round the student whose logits these are."""
  own = logits.argmax(1)
  classes = students.in_batches(students.run(exact), fed).argmax(1)
  accuracy = None
  if inputs.labels is not None:
    shares = [float((x == inputs.labels).mean()) for x in (own, classes)]
    accuracy = shares[0], shares[1]
  return Rounded(int((own == classes).sum()), accuracy)


def _timed(both, kind, raw, preprocess) -> tuple[Times, ...]:
  """Of two files, the student's and another, as their reader runs them."""
  runs = [
    (
      kind.read(path, own, preprocess),
      raw if preprocess else students.fed(own, raw),
    )
    for path, own in both.items()
  ]
  return tuple(_taking_turns(runs, batch) for batch in _TIMED)


def _taking_turns(runs, batch) -> Times:
  passes = [functools.partial(run, x[:batch]) for run, x in runs]
  for run in passes:
    run()  # compiles
  return Times(batch, *interleaved(passes))


@contextlib.contextmanager
def _new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder beside a file that shall be made, for as long as it is made.

  Renaming is one step within a file system. Folders that are made for the file
  go again where it is not.
  """
  parents = path.parent, *path.parent.parents
  missing = [folder for folder in parents if not folder.exists()]
  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    with tempfile.TemporaryDirectory(
      prefix=f'.{path.name}.', dir=path.parent
    ) as folder:
      yield pathlib.Path(folder)
  except BaseException:
    for made in missing:
      with contextlib.suppress(OSError):  # Another's file may be in it.
        made.rmdir()
    raise


def _into_place(part, path):
  """The file and its JSON; the file last, so that it never is without."""
  os.replace(_beside(part), _beside(path))
  try:
    os.replace(part, path)
  except BaseException:
    _beside(path).unlink()
    raise


def _beside(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f'{path.name}.json')


def _check_paths(path, beside, kind, to):
  if path.suffix != kind.suffix:
    raise UserError(
      f'{path} is no name for {to}, whose files end in {kind.suffix}; name '
      f'another by --out, such as {path.stem}{kind.suffix}'
    )
  for one in (path, beside):
    # A link that leads nowhere is there as well.
    if one.exists() or one.is_symlink():
      raise UserError(f'{one} is there already; name a new file by --out')


def _check_kind(student: Student, kind: Format, to, preprocess, int8=False):
  family = student.spec['family']
  if family not in kind.families:
    others = [name for name, own in FORMATS.items() if family in own.families]
    raise UserError(
      f'{to} takes {" and ".join(kind.families)}, and the network is a '
      f'{family}; export it as {", ".join(others)}'
    )
  if int8 and not kind.int8:
    taking = [name for name, own in FORMATS.items() if own.int8]
    raise UserError(
      f'{to} holds weights of float32 alone; leave --int8 out, or export '
      f'{", ".join(taking)}'
    )
  if not preprocess:
    return
  if not kind.graph:
    programs = [name for name, own in FORMATS.items() if own.graph]
    raise UserError(
      f'{to} holds weights, which normalise nothing; leave --preprocess out, '
      f'or export {" or ".join(programs)}'
    )
  if student.preprocess.facts()['kind'] != 'images':
    raise UserError(
      f'the {family} reads character ids, which are not normalised; leave '
      '--preprocess out'
    )


def _encoded(student, kind, to, preprocess) -> bytes:
  try:
    return kind.encode(student, preprocess)
  except Exception as error:  # A converter's own, of what it does not know.
    raise UserError(
      f'the network cannot be written as {to} ({first_line(error)}); export '
      'another format'
    ) from error


def _said(student, to, preprocess) -> dict[str, Any]:
  """What stands beside the file; JSON values."""
  facts = dataclasses.asdict(student.facts)
  said = {key: facts[key] for key in _SAID}
  said |= {'format': to, 'preprocessed': preprocess}
  if student.is_int8:
    said['rounded_from'] = said['digest']
    said['digest'] = saved.digest(student.variables)
  return said


def _compared(path, student, kind, x, wanted, preprocess) -> float:
  """The largest difference of a file's logits from the student's.

  Raises:
    UserError: it cannot be read, another class is first, or it is too large.
  """
  try:
    run = kind.read(path, student, preprocess)
    found, few = students.in_batches(run, x), np.asarray(run(x[:_PROBED]))
  except Exception as error:  # Each reader raises errors of its own.
    raise UserError(
      f'the new {path.name} is not read by {kind.reader()} '
      f'({first_line(error)}), and was not kept; export another format'
    ) from error
  if found.shape != wanted.shape or few.shape != wanted[:_PROBED].shape:
    raise _differing(path, kind, f'has logits {list(found.shape)}')
  largest = max(
    float(np.abs(own - wanted[: len(own)]).max()) for own in (found, few)
  )
  others = int((found.argmax(1) != wanted.argmax(1)).sum())
  # NaN is not below anything.
  if others or not largest <= TOLERANCE:
    raise _differing(
      path,
      kind,
      f'gives another class to {others} of {len(wanted)} inputs, and logits '
      f'that differ by up to {largest:.2g}, where {TOLERANCE:.0e} is allowed',
    )
  return largest


def _differing(path, kind, how):
  return UserError(
    f'the new {path.name}, as {kind.reader()} reads it, {how}; it was not '
    'kept: export another format, and report this as a bug'
  )


def load(path: str | os.PathLike[str]) -> tuple[saved.Facts, dict[str, Any]]:
  """Reads a student that was exported as `safetensors`.

  Args:
    path: of the file; the JSON lies beside it.

  Returns:
    Its facts, of an empty row, and its variables (float32 arrays of NumPy);
    `models.build(facts.spec)` is the network.

  Raises:
    UserError: no such file or JSON, an extra is missing, or the arrays are not
      those that were exported.
  """
  path = pathlib.Path(path).expanduser()
  found = variables(path)
  try:
    said = dict(read_json(_beside(path)))
    own = {key: said[key] for key in _SAID}
    facts = saved.Facts(**own, precision='fp32', row={})
    if not isinstance(facts.spec, dict):
      raise ValueError('it has no architecture')
  except (OSError, ValueError, TypeError, KeyError) as error:
    raise UserError(
      f'{_beside(path)} does not say which network this is '
      f'({first_line(error)}); copy it again, or export the network anew'
    ) from None
  if saved.digest(found) != facts.digest:
    raise UserError(
      f'{path} does not hold the arrays of {shown(facts.digest)}, which '
      f'{_beside(path).name} names; copy both again'
    )
  return facts, found
