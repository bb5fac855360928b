"""The kinds of files that a student is exported as, and what reads each."""

import contextlib
import importlib.metadata
import logging
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lit_jax.blocks import example
from lit_jax.errors import UserError, first_line, require
from lit_jax.layers import fold, plain_forms
from lit_jax.networks import foreign, pytorch
from lit_jax.networks.export import int8
from lit_jax.networks.export.student import FAMILIES, Run, Student, run

_DAMAGED = 'export the network again'
_SCALE = ':scale'  # of an array of int8, after its name
# Where a program of StableHLO may run; the choice is the reader's.
_PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


class Format(NamedTuple):
  """A kind of file.

  Attributes:
    suffix: of its names.
    reader: what reads it, in words.
    graph: whether it holds what the network computes, and not weights alone.
    int8: whether it takes weights of 8 bits.
    families: whose networks it takes.
    needs: raises UserError unless it can be written and read here.
    encode: the file's bytes, of a student and whether it normalises itself.
    read: of the file, the student, and whether it normalises itself: what
      gives the reader's logits [n, classes], of inputs [n, …].
  """

  suffix: str
  reader: Callable[[], str]
  graph: bool
  int8: bool
  families: tuple[str, ...]
  needs: Callable[[], None]
  encode: Callable[[Student, bool], bytes]
  read: Callable[[pathlib.Path, Student, bool], Run]


def _needs_safetensors():
  require('a .safetensors file', 'gan', 'safetensors')


# Weights by our own names.


def _encode_safetensors(student, preprocess):
  from safetensors import numpy  # pyright: ignore[reportMissingImports]

  del preprocess
  return numpy.save(_named(student.stored), {'format': 'lit_jax'})


def _named(stored):
  leaves: Any = traverse_util.flatten_dict(dict(stored), sep='/')
  found = {}
  for place, leaf in leaves.items():
    if int8.is_int8(leaf):
      found[place + _SCALE], leaf = leaf.scale, leaf.values
    found[place] = leaf
  # The file takes the bytes as they lie.
  return {place: np.ascontiguousarray(leaf) for place, leaf in found.items()}


def _restored(found):
  """The arrays by name, of what `_named` made."""
  scales = {k: v for k, v in found.items() if k.endswith(_SCALE)}
  return {
    place: int8.restored(int8.Int8(leaf, scales[place + _SCALE]))
    if place + _SCALE in scales
    else leaf
    for place, leaf in found.items()
    if place not in scales
  }


def variables(path: pathlib.Path) -> dict[str, Any]:
  """The arrays of a `.safetensors` by our own names, as networks take them.

  Raises:
    UserError: no such file, a damaged one, or an extra is missing.
  """
  content = foreign.content(path, 'weights of lit_jax', _DAMAGED)
  found = foreign.parsed(path, content, _DAMAGED)
  try:
    arrays = traverse_util.unflatten_dict(_restored(found), sep='/')
    return {'batch_stats': {}} | arrays
  except Exception as error:  # Names that are no paths of one tree.
    raise UserError(
      f'{path}: its arrays are not those of a network ({first_line(error)}); '
      f'{_DAMAGED}'
    ) from None


def _read_safetensors(path, student, preprocess):
  del preprocess
  return run(student, variables(path))


# Programs. The network is traced as it is defined, for the forms that are fast
# on this machine's CPU may be slow wherever the program runs.


def _shape(student, preprocess):
  """A batch of any size."""
  leaf = student.net.example
  sizes = ', '.join(map(str, ('n', *leaf.shape)))
  dtype = jnp.uint8 if preprocess else leaf.dtype
  return jax.ShapeDtypeStruct(jax.export.symbolic_shape(sizes), dtype)


def _encode_stablehlo(student, preprocess):
  with plain_forms():
    variables = student.stored
    if not student.is_int8:
      # A batch norm is then no pass of its own over the images.
      variables = fold(student.net.apply, variables, example(student.net))
    program = jax.jit(lambda x: student.function(variables, x, preprocess))
    exported = jax.export.export(program, platforms=_PLATFORMS)
    return bytes(exported(_shape(student, preprocess)).serialize())


def _read_stablehlo(path, student, preprocess):
  del student, preprocess
  program = jax.export.deserialize(bytearray(path.read_bytes()))
  return lambda x: np.asarray(program.call(x))


def _needs_stablehlo():
  require('StableHLO', 'stablehlo', 'flatbuffers')


def _needs_onnx():
  require('ONNX', 'onnx', 'jax2onnx', 'onnxruntime')


@contextlib.contextmanager
def _silenced(name):
  """Without a logger's warnings, here of lengths known when programs run."""
  logger = logging.getLogger(name)
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


def _encode_onnx(student, preprocess):
  import jax2onnx  # pyright: ignore[reportMissingImports]

  with plain_forms(), _silenced('onnx_ir'):
    model: Any = jax2onnx.to_onnx(
      lambda x: student.function(student.stored, x, preprocess),
      [_shape(student, preprocess)],
      model_name='lit_jax',
      input_names=['input'],
      output_names=['logits'],
    )
  return model.SerializeToString()


def _read_onnx(path, student, preprocess):
  import onnxruntime  # pyright: ignore[reportMissingImports]

  del student, preprocess
  session = onnxruntime.InferenceSession(
    str(path), providers=['CPUExecutionProvider']
  )
  return lambda x: np.asarray(session.run(['logits'], {'input': x})[0])


# Weights by torchvision's names.


def _encode_torch(student, preprocess):
  from safetensors import numpy  # pyright: ignore[reportMissingImports]

  del preprocess
  # As `pytorch.read` looks for it, so that the file can be imported again.
  facts = student.preprocess.facts()
  said = {key: str(list(facts[key])) for key in ('mean', 'std')}
  said['format'] = 'pt'
  return numpy.save(pytorch.state_dict(student.variables), said)


def has_torch() -> bool:
  """Whether PyTorch is there, which then reads what is for it."""
  try:
    import torch  # noqa: F401 # pyright: ignore[reportMissingImports]
  except ImportError:
    return False
  return True


def _read_torch(path, student, preprocess):
  del preprocess
  if not has_torch():
    return run(student, pytorch.variables(path))
  import torch  # pyright: ignore[reportMissingImports]

  from lit_jax.networks.export.torch_net import ResNet

  net = ResNet(path).eval()

  @torch.no_grad()
  def logits(x):
    # A copy, for PyTorch takes no arrays that cannot be written.
    return net(torch.from_numpy(np.array(x.transpose(0, 3, 1, 2)))).numpy()

  return logits


def _version(package):
  return f'{package} {importlib.metadata.version(package)}'


def _torch_reader():
  if has_torch():
    return _version('torch')
  return 'lit_jax alone (PyTorch is not installed, and has not computed it)'


FORMATS = {
  'safetensors': Format(
    '.safetensors', lambda: 'lit_jax', graph=False, int8=True,
    families=FAMILIES, needs=_needs_safetensors, encode=_encode_safetensors,
    read=_read_safetensors,
  ),
  'stablehlo': Format(
    '.stablehlo', lambda: _version('jax'), graph=True, int8=True,
    families=FAMILIES, needs=_needs_stablehlo, encode=_encode_stablehlo,
    read=_read_stablehlo,
  ),
  'onnx': Format(
    '.onnx', lambda: _version('onnxruntime'), graph=True, int8=True,
    families=FAMILIES, needs=_needs_onnx, encode=_encode_onnx, read=_read_onnx,
  ),
  'torch': Format(
    '.safetensors', _torch_reader, graph=False, int8=False,
    families=('resnet', 'resnext'), needs=_needs_safetensors,
    encode=_encode_torch, read=_read_torch,
  ),
}  # fmt: skip
"""Every format by its name, as `lit-jax export --to` has it."""
