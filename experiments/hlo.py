"""Reads a program that XLA compiled for a GPU: its kernels and what they move.

The text is that of the optimised module, in which an instruction of a
computation that runs is a kernel, unless it only names what is there already.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BITS = {
  'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16,
  's32': 32, 'u32': 32, 's64': 64, 'u64': 64, 'f16': 16, 'bf16': 16,
  'f32': 32, 'f64': 64, 'f8e4m3fn': 8, 'f8e5m2': 8, 'c64': 64, 'c128': 128,
}  # fmt: skip
_SHAPE = re.compile(r'\b([a-z][a-z0-9]*)\[([\d,]*)\]')
_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%?([\w.-]+) = (.*)')
_NAME = re.compile(r'%([\w.-]+)')
# What costs nothing: names, views and values that are known.
_FREE = {
  'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast',
  'after-all', 'opt-barrier', 'partition-id', 'replica-id',
}  # fmt: skip
_SLICES = {'slice', 'dynamic-slice', 'gather'}
# cuDNN's convolutions, and where each has dy and the kernel: operand 0 or 1,
# or None for the output.
_CONVOLUTIONS = {
  '__cudnn$convForward': ('convolution', None, 1),
  '__cudnn$convBiasActivationForward': ('fused convolution', None, 1),
  '__cudnn$convBackwardInput': ('input gradient', 0, 1),
  '__cudnn$convBackwardFilter': ('kernel gradient', 1, None),
}


@dataclasses.dataclass(frozen=True)
class Instruction:
  """A line of a computation.

  Attributes:
    name: unique within the module.
    type: of the result, as text.
    op: such as 'fusion'.
    operands: names.
    text: of the operands, where they are literal.
    attributes: all that follows the operands.
    root: whether it is the computation's result.
  """

  name: str
  type: str
  op: str
  operands: tuple[str, ...]
  text: str
  attributes: str
  root: bool

  def attribute(self, pattern: str) -> str | None:
    """The first group of a pattern in the attributes."""
    found = re.search(pattern, self.attributes)
    return found and found[1]


Computation = dict[str, Instruction]


class Module(NamedTuple):
  """Computations by name, and the name of the one that runs."""

  computations: dict[str, Computation]
  entry: str


class Kernel(NamedTuple):
  """One launch.

  Attributes:
    kind: 'convolution', 'kernel gradient', 'reduce', 'elementwise', ….
    bytes: read and written in memory, each operand once.
    flops: of convolutions and products of matrices, two a multiply-accumulate.
    times: how often it runs in one run of the program, or of its loop's body;
      a mean where a condition decides.
  """

  kind: str
  bytes: int
  flops: float
  times: float


class Loop(NamedTuple):
  """A loop whose count is not known beforehand: the kernels of one turn."""

  name: str
  kernels: tuple[Kernel, ...]


def parse(text: str) -> Module:
  """The computations of `compiled.as_text()`.

  Raises:
    ValueError: there is no entry computation.
  """
  computations: dict[str, Computation] = {}
  entry, current = None, None
  for line in text.splitlines():
    if not line.startswith(' '):
      found = _COMPUTATION.match(line)
      current = computations.setdefault(found[2], {}) if found else None
      if found and found[1]:
        entry = found[2]
    elif current is not None and (found := _INSTRUCTION.match(line)):
      one = _instruction(found[2], found[3], bool(found[1]))
      current[one.name] = one
  if entry is None:
    raise ValueError('no entry computation; is this an optimised module?')
  return Module(computations, entry)


def _instruction(name, text, root):
  """From 'type op(operands), attributes'."""
  end = _closing(text) if text.startswith('(') else text.index(' ')
  kind, rest = text[:end], text[end:].lstrip()
  start = rest.index('(')
  end = start + _closing(rest[start:])
  operands = rest[start + 1 : end - 1]
  return Instruction(
    name,
    kind,
    rest[:start],
    tuple(_NAME.findall(operands)),
    operands,
    rest[end:],
    root,
  )


def _closing(text):
  """The place after the bracket that closes the first one."""
  depth = 0
  for i, letter in enumerate(text):
    depth += (letter in '({[') - (letter in ')}]')
    if not depth:
      return i + 1
  raise ValueError(f'brackets do not close: {text[:80]}')


def size(kind: str) -> int:
  """Bytes of an array type, or of all arrays of a tuple."""
  return sum(
    math.prod(shape) * _BITS[dtype] // 8 for dtype, shape in _shapes(kind)
  )


def _shapes(kind):
  return [
    (dtype, tuple(int(n) for n in sizes.split(',') if n))
    for dtype, sizes in _SHAPE.findall(kind)
    if dtype in _BITS
  ]


def kernels(
  module: Module, share: float = 1.0
) -> tuple[tuple[Kernel, ...], tuple[Loop, ...]]:
  """All kernels: those that run a known number of times, and open loops.

  The kernel that only tells whether a loop goes on is left out.

  Args:
    module: see `parse`.
    share: of the times that a condition is met, those when it takes the branch
      of the most kernels; of the rest it takes the one of the fewest. An open
      loop within another has so many turns, for it stands for a condition.
  """
  loops: list[Loop] = []
  known = tuple(_walk(module, module.entry, 1.0, share, loops, False))
  return known, tuple(loops)


def _walk(module, name, times, share, loops, within) -> Iterator[Kernel]:
  def walk(name, times, within=within):
    return _walk(module, name, times, share, loops, within)

  computation = module.computations[name]
  for one in computation.values():
    if one.op in _FREE or one.op.endswith('-done'):
      continue
    if one.op == 'while':
      body = one.attribute(r'body=%?([\w.-]+)')
      count = one.attribute(r'known_trip_count":\{"n":"(\d+)"')
      if count is not None:
        yield from walk(body, times * int(count))
      elif within:
        yield from walk(body, times * share)
      else:
        loops.append(Loop(body, tuple(walk(body, 1.0, True))))
    elif one.op == 'conditional':
      branches = [tuple(walk(b, times)) for b in _branches(one)]
      for branch, part in (
        (min(branches, key=len), 1 - share),
        (max(branches, key=len), share),
      ):
        for kernel in branch if part else ():
          yield kernel._replace(times=kernel.times * part)
    elif one.op == 'call':
      yield from walk(one.attribute(r'to_apply=%?([\w.-]+)'), times)
    else:
      yield _kernel(module, computation, one, times)


def _branches(one):
  several = one.attribute(r'branch_computations=\{([^}]*)\}')
  if several is not None:
    return _NAME.findall(several)
  return re.findall(r'(?:true|false)_computation=%?([\w.-]+)', one.attributes)


def _kernel(module, computation, one, times):
  if one.op == 'fusion':
    return _fusion(module, computation, one, times)
  read = sum(size(computation[name].type) for name in one.operands)
  kind, flops = one.op, 0.0
  if one.op == 'custom-call':
    target = one.attribute(r'custom_call_target="([^"]+)"') or 'custom call'
    kind = target
    if target in _CONVOLUTIONS:
      kind, flops = _convolution(computation, one, target)
    elif target.startswith('__cublas'):
      kind, flops = 'product', _product(computation, one)
  elif one.op == 'dot':
    kind, flops = 'product', _product(computation, one)
  return Kernel(kind, read + size(one.type), flops, times)


def _convolution(computation, one, target):
  """Its kind and operations: every pixel of dy meets the whole kernel once."""
  kind, dy, kernel = _CONVOLUTIONS[target]
  types = [computation[name].type for name in one.operands]
  output = _shapes(one.type)[0][1]
  dy, kernel = (
    output if place is None else _shapes(types[place])[0][1]
    for place in (dy, kernel)
  )
  labels = one.attribute(r'dim_labels=\w+_(\w+)->')
  assert labels
  features = kernel[labels.index('o')]
  return kind, 2.0 * math.prod(dy) / features * math.prod(kernel)


def _product(computation, one):
  output = math.prod(_shapes(one.type)[0][1])
  left = _shapes(computation[one.operands[0]].type)[0][1]
  contracted = one.attribute(r'lhs_contracting_dims=\{([\d,]*)\}')
  if contracted is None:
    contracted = (
      one.attribute(r'lhs_contracting_dimensions":\[([\d",]*)\]') or ''
    )
  axes = [int(n) for n in re.findall(r'\d+', contracted)]
  return 2.0 * output * math.prod(left[axis] for axis in axes)


def _fusion(module, computation, one, times):
  inner = module.computations[one.attribute(r'calls=%?([\w.-]+)')]
  ops = set(_ops(module, inner))
  if 'scatter' in ops:
    kind = 'scatter'
  elif 'dot' in ops:
    kind = 'product'
  elif ops & {'reduce', 'reduce-window'}:
    kind = 'reduce'
  elif 'transpose' in ops and 'kind=kInput' in one.attributes:
    kind = 'transpose'
  else:
    kind = 'elementwise'
  read = sum(
    _read(inner, i, size(computation[name].type))
    for i, name in enumerate(one.operands)
  )
  flops = sum(_product(inner, x) for x in inner.values() if x.op == 'dot')
  return Kernel(kind, read + _written(inner), flops, times)


def _ops(module, computation):
  for one in computation.values():
    yield one.op
    if one.op == 'fusion':
      inner = one.attribute(r'calls=%?([\w.-]+)')
      yield from _ops(module, module.computations[inner])


def _read(inner, index, whole):
  """Bytes of a fusion's operand that are read: all, or the slices of it."""
  names = {
    x.name
    for x in inner.values()
    if x.op == 'parameter' and x.text.strip() == str(index)
  }
  read = 0
  # Bitcasts come before their users.
  for x in inner.values():
    if not names & set(x.operands):
      continue
    if x.op == 'bitcast':
      names.add(x.name)
    elif x.op in _SLICES and x.operands[0] in names:
      read += size(x.type)
    elif x.op == 'dynamic-update-slice' and x.operands[0] in names:
      pass  # written in place
    else:
      return whole
  return min(read, whole)


def _written(inner):
  """Bytes of a fusion's results; of an update in place, those that change."""
  root = next(x for x in inner.values() if x.root)
  results = [root]
  if root.op == 'tuple':
    results = [inner[name] for name in root.operands]
  total = 0
  for result in results:
    while result.op == 'bitcast':
      result = inner[result.operands[0]]
    if result.op == 'dynamic-update-slice':
      total += size(inner[result.operands[1]].type)
    elif result.op != 'parameter':
      total += size(result.type)
  return total


def all_reduces(text: str) -> list[int]:
  """Bytes of each all-reduce of a program, in the order of its text."""
  found = re.findall(r' = (.*?) all-reduce(?:-start)?\(', text)
  return [
    sum(math.prod(sizes) * _BITS[dtype] // 8 for dtype, sizes in _shapes(shape))
    for shape in found
  ]
