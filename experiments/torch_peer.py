"""The same networks and the same LIT step in PyTorch, to measure against.

Needs PyTorch and NumPy alone. The networks also make the numbers of
tests/fixtures; the names of their parts are those of the Flax parameters.
"""
# pyright: reportMissingImports=false

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from experiments.worker import peak_rss_mb

PAD = 4
_DTYPES = {
  'fp32': torch.float32,
  'bf16': torch.bfloat16,
  'fp16': torch.float16,
}
_IR_LOSSES = {
  'l2': F.mse_loss,
  'l1': F.l1_loss,
  'smooth_l1': F.smooth_l1_loss,
}
# How the best contestant may run, by device: memory layout, and torch.compile's
# mode (None: not compiled).
VARIANTS: dict[str, dict[str, tuple[bool, str | None]]] = {
  'cpu': {
    'channels-last': (True, None),
    'compile': (False, 'default'),
    'compile-channels-last': (True, 'default'),
    'max-autotune-channels-last': (True, 'max-autotune'),
  },
  'cuda': {
    'channels-last': (True, None),
    'reduce-overhead-channels-last': (True, 'reduce-overhead'),
    'max-autotune-channels-last': (True, 'max-autotune'),
  },
}
_SETTLING_STEPS = 3
_LATENCY_SECONDS, _LATENCY_REPEATS = 0.5, 5


class Stem(nn.Module):
  """Convolution of the image to the first width."""

  def __init__(self, width, norm):
    super().__init__()
    self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
    self.norm = norm(width)
    self.relu = nn.ReLU()

  def forward(self, x):
    return self.relu(self.norm(self.conv(x)))


class Unit(nn.Module):
  """A residual unit of convolutions (width, size, groups)."""

  def __init__(self, width, convs, stride, shortcut, norm):
    super().__init__()
    self.count = len(convs)
    self.stride = stride
    self.relus = nn.ModuleList(nn.ReLU() for _ in convs)
    self.extra = convs[-1][0] - width
    # The first 3x3 convolution is the one that has the stride.
    strided = [size for _, size, _ in convs].index(3)
    inputs = width
    for i, (outputs, size, groups) in enumerate(convs):
      conv = nn.Conv2d(
        inputs,
        outputs,
        size,
        stride if i == strided else 1,
        size // 2,
        groups=groups,
        bias=False,
      )
      setattr(self, f'conv{i + 1}', conv)
      setattr(self, f'norm{i + 1}', norm(outputs))
      inputs = outputs
    if shortcut == 'conv' and (stride != 1 or self.extra):
      self.shortcut_conv = nn.Conv2d(width, inputs, 1, stride, bias=False)
      self.shortcut_norm = norm(inputs)

  def forward(self, x):
    h = x
    for i in range(1, self.count + 1):
      h = getattr(self, f'norm{i}')(getattr(self, f'conv{i}')(h))
      if i < self.count:
        h = self.relus[i - 1](h)
    if hasattr(self, 'shortcut_conv'):
      x = self.shortcut_norm(self.shortcut_conv(x))
    elif self.stride != 1 or self.extra:
      x = x[:, :, :: self.stride, :: self.stride]
      below = self.extra // 2
      x = F.pad(x, (0, 0, 0, 0, below, self.extra - below))
    return self.relus[-1](x + h)


class Block(nn.Sequential):
  """Units of one width."""

  def __init__(self, width, convs, count, stride, shortcut, norm):
    super().__init__()
    for i in range(count):
      step = stride if i == 0 else 1
      self.add_module(f'units_{i}', Unit(width, convs, step, shortcut, norm))
      width = convs[-1][0]


class Head(nn.Module):
  """Global average and a linear layer."""

  def __init__(self, width, classes):
    super().__init__()
    self.dense = nn.Linear(width, classes)

  def forward(self, x):
    return self.dense(x.mean((2, 3)))


class Net(nn.Module):
  """Three blocks between a stem and a head."""

  def __init__(self, width, block_convs, count, shortcut, classes, norm):
    super().__init__()
    self.stem = Stem(width, norm)
    for i, convs in enumerate(block_convs):
      stride = 1 if i == 0 else 2
      block = Block(width, convs, count, stride, shortcut, norm)
      self.add_module(f'blocks_{i}', block)
      width = convs[-1][0]
    self.head = Head(width, classes)

  @property
  def blocks(self):
    return [self.blocks_0, self.blocks_1, self.blocks_2]

  def forward(self, x):
    irs = [self.stem(x)]
    for block in self.blocks:
      irs.append(block(irs[-1]))
    return self.head(irs[-1]), irs


def resnet(depth, shortcut, classes=10, norm=nn.BatchNorm2d):
  """ResNet of 6n + 2 layers for small images."""
  convs = [[(width, 3, 1)] * 2 for width in (16, 32, 64)]
  return Net(16, convs, (depth - 2) // 6, shortcut, classes, norm)


def resnext(
  depth,
  shortcut,
  cardinality,
  base_width,
  unit,
  classes=10,
  norm=nn.BatchNorm2d,
):
  """ResNeXt with (depth - 2) / 6 units a block."""
  convs = []
  for factor in (1, 2, 4):
    inner = cardinality * base_width * factor
    if unit == 'bottleneck':
      outer = 256 * factor
      convs.append([(inner, 1, 1), (inner, 3, cardinality), (outer, 1, 1)])
    else:
      convs.append([(inner, 3, 1), (64 * factor, 3, cardinality)])
  return Net(64, convs, (depth - 2) // 6, shortcut, classes, norm)


FAMILIES: dict[str, Callable[..., Net]] = {
  'resnet': resnet,
  'resnext': resnext,
}


def build(spec: Mapping[str, Any], norm: Any = nn.BatchNorm2d) -> Net:
  """The network of a specification: 'family' and that function's options."""
  options = {k: v for k, v in spec.items() if k != 'input_shape'}
  return FAMILIES[options.pop('family')](norm=norm, **options)


def by_flax_path(net: nn.Module):
  """(Flax path, tensor, order of its axes in Flax) of all that is stored."""
  for place, module in net.named_modules():
    place = place.replace('.', '/')
    if isinstance(module, nn.Conv2d):
      yield f'params/{place}/kernel', module.weight, (2, 3, 1, 0)
    elif isinstance(module, nn.Linear):
      yield f'params/{place}/kernel', module.weight, (1, 0)
      yield f'params/{place}/bias', module.bias, (0,)
    elif isinstance(module, nn.BatchNorm2d):
      yield f'params/{place}/scale', module.weight, (0,)
      yield f'params/{place}/bias', module.bias, (0,)
      yield f'batch_stats/{place}/mean', module.running_mean, (0,)
      yield f'batch_stats/{place}/var', module.running_var, (0,)


def load(net: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
  """Copies arrays by Flax path, in Flax's layouts, into the network."""
  with torch.no_grad():
    for path, tensor, order in by_flax_path(net):
      value = torch.from_numpy(arrays[path]).permute(*np.argsort(order))
      tensor.copy_(value)


def fold_norms(net: nn.Module) -> None:
  """Puts batch norm in evaluation mode into the convolution before it."""
  for module in net.modules():
    for name, conv in list(module.named_children()):
      norm = name.replace('conv', 'norm')
      if isinstance(conv, nn.Conv2d):
        setattr(module, name, fuse_conv_bn_eval(conv, getattr(module, norm)))
        setattr(module, norm, nn.Identity())


def augment(images: torch.Tensor) -> torch.Tensor:
  """Random crops of the zero-padded images and random mirror images.

  Args:
    images: uint8 [n, h, w, c].

  Returns:
    uint8 [n, h, w, c].
  """
  n, height, width, _ = images.shape
  where = images.device
  padded = F.pad(images, (0, 0, PAD, PAD, PAD, PAD))
  corners = torch.randint(0, 2 * PAD + 1, (2, n, 1), device=where)
  rows = corners[0] + torch.arange(height, device=where)
  columns = torch.arange(width, device=where).expand(n, width)
  mirrored = torch.rand((n, 1), device=where) < 0.5
  columns = corners[1] + torch.where(mirrored, width - 1 - columns, columns)
  example = torch.arange(n, device=where)
  return padded[example[:, None, None], rows[:, :, None], columns[:, None, :]]


def lit_loss(student, job, x, labels, wanted, targets):
  """Eq. 1 to 3 of the paper: the total, and its parts stacked.

  Args:
    student: the network that learns.
    job: α, β, τ and the IR loss.
    x: normalised images.
    labels: integers [n].
    wanted: the teacher's logits.
    targets: the teacher's IRs (T_0, …, T_k).
  """
  logits, irs = student(x)
  # Block 1 has the same input in both passes.
  found = [irs[1]]
  for block, target in zip(student.blocks[1:], targets[1:], strict=False):
    found.append(block(target))
  compare = _IR_LOSSES[job['ir_loss']]
  parts = [compare(f, t) for f, t in zip(found, targets[1:], strict=True)]
  hard = F.cross_entropy(logits, labels)
  tau = job['temperature']
  soft = tau**2 * F.cross_entropy(logits / tau, F.softmax(wanted / tau, -1))
  kd = job['alpha'] * hard + (1 - job['alpha']) * soft
  ir = torch.stack(parts)
  return job['beta'] * kd + (1 - job['beta']) * ir.sum(), ir.detach()


class Facts:
  """What this PyTorch is, without any network."""

  def has_cuda(self) -> bool:
    return torch.cuda.is_available()

  def versions(self) -> dict[str, str]:
    found = {'torch': torch.__version__}
    if torch.version.cuda:
      found['torch cuda'] = torch.version.cuda
    return found

  def variants(self, device: str) -> tuple[str, ...]:
    return tuple(VARIANTS[device])


class _Side:
  """What the training and the inference contestant share."""

  def __init__(self, job: Mapping[str, Any], variant: str | None):
    """`variant` is None for plain PyTorch, else a name in VARIANTS."""
    self._job = job
    self._device = job['torch_device']
    self._best = variant is not None
    layout, self._mode = (
      VARIANTS[self._device][variant] if variant else (False, None)
    )
    self._format = torch.channels_last if layout else torch.contiguous_format
    self._began = time.perf_counter()
    if self._best and self._device == 'cuda':
      torch.backends.cudnn.benchmark = True
      torch.set_float32_matmul_precision('high')
      torch.backends.cudnn.allow_tf32 = True

  def _network(self, spec, arrays):
    net = build(spec)
    load(net, arrays)
    return net.to(self._device, memory_format=self._format)

  def _frozen(self, spec, arrays):
    """In evaluation mode and without gradients; the best one folded."""
    net = self._network(spec, arrays).eval().requires_grad_(False)
    if self._best:
      fold_norms(net)
      net = net.to(memory_format=self._format)
    return net

  def _compiled(self, function):
    if self._mode is None:
      return function
    return torch.compile(function, mode=self._mode)

  def _autocast(self):
    if self._job['precision'] == 'fp32':
      return contextlib.nullcontext()
    dtype = _DTYPES[self._job['precision']]
    return torch.autocast(self._device, dtype)

  def _synchronize(self):
    if self._device == 'cuda':
      torch.cuda.synchronize()

  def peak_memory_mb(self) -> float:
    if self._device == 'cuda':
      return torch.cuda.max_memory_allocated() / 1e6
    return peak_rss_mb()


class Training(_Side):
  """LIT steps of a teacher and a student."""

  def __init__(self, job, variant, arrays, images, labels):
    """Args:
    job: the settings, plain values.
    variant: see `_Side`.
    arrays: {'teacher': …, 'student': …}, variables by Flax path.
    images: uint8 [n, h, w, c], n at least one batch.
    labels: int32 [n].
    """
    super().__init__(job, variant)
    torch.manual_seed(0)
    self._arrays = arrays
    self._teacher = self._frozen(job['teacher'], arrays['teacher'])
    self._images = torch.from_numpy(images).to(self._device)
    self._labels = torch.from_numpy(labels).long().to(self._device)
    colours = torch.tensor([job['mean'], job['std']], device=self._device)
    self._mean, self._std = colours * 255
    self._begin()
    self._run = {
      'prepare': self._compiled(lambda x: self._normalize(augment(x))),
      'teacher': self._compiled(self._teacher),
      'loss': self._compiled(self._loss),
    }
    self._order = iter(())
    self._last = torch.zeros(())

  def _begin(self):
    """The student and its optimiser at the first step."""
    job = self._job
    if not hasattr(self, '_student'):
      self._student = self._network(job['student'], self._arrays['student'])
      self._student.train()
      for part in job['frozen']:
        getattr(self._student, part).eval().requires_grad_(False)
    load(self._student, self._arrays['student'])
    self._optimizer = torch.optim.SGD(
      [p for p in self._student.parameters() if p.requires_grad],
      job['learning_rate'],
      job['momentum'],
      weight_decay=job['weight_decay'],
      **({'fused': True} if self._best else {}),
    )

  def _normalize(self, images):
    x = (images.float() - self._mean) / self._std
    x = x.permute(0, 3, 1, 2)
    return x.contiguous(memory_format=self._format)

  def _loss(self, x, labels, wanted, targets):
    return lit_loss(self._student, self._job, x, labels, wanted, targets)

  def _step(self, run, x, labels):
    """One step on normalised images; the loss and its parts."""
    with self._autocast():
      with torch.no_grad():
        wanted, targets = run['teacher'](x)
      loss, parts = run['loss'](x, labels, wanted, targets)
    self._optimizer.zero_grad(set_to_none=True)
    loss.backward()
    self._optimizer.step()
    return loss.detach(), parts

  def check(self, images, labels) -> list[list[float]]:
    """Total loss and IR parts of each step in float32, not augmented.

    On a CPU in fp32 the functions are those that are timed; elsewhere the
    same ones, not compiled and without shorter mantissas.

    Args:
      images: uint8 [steps, batch, h, w, c].
      labels: int32 [steps, batch].
    """
    job, self._job = self._job, {**self._job, 'precision': 'fp32'}
    run = {'teacher': self._teacher, 'loss': self._loss}
    if self._device == 'cpu' and job['precision'] == 'fp32':
      run = self._run
    allowed = torch.backends.cudnn.allow_tf32
    precision = torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision('highest')
    found = []
    for rows, targets in zip(images, labels, strict=True):
      x = self._normalize(torch.from_numpy(rows).to(self._device))
      wanted = torch.from_numpy(targets).long().to(self._device)
      loss, parts = self._step(run, x, wanted)
      found.append([loss.item(), *parts.tolist()])
    torch.backends.cudnn.allow_tf32 = allowed
    torch.set_float32_matmul_precision(precision)
    self._job = job
    self._begin()
    if self._device == 'cuda':
      torch.cuda.empty_cache()
      torch.cuda.reset_peak_memory_stats()
    return found

  def warm_up(self) -> float:
    """Seconds from the start to the end of the first step; runs a few more."""
    self._steps(1)
    seconds = time.perf_counter() - self._began
    self._steps(_SETTLING_STEPS)
    return seconds

  def run(self, seconds: float) -> dict[str, float]:
    """Trains for about that long, at least one step."""
    steps, start = 0, time.perf_counter()
    while not steps or time.perf_counter() - start < seconds:
      self._steps(1, wait=False)
      steps += 1
    self._synchronize()
    return {'steps_per_s': steps / (time.perf_counter() - start)}

  def finite(self) -> bool:
    return math.isfinite(self._last.item())

  def _steps(self, count, wait=True):
    for _ in range(count):
      if self._mode is not None and self._device == 'cuda':
        torch.compiler.cudagraph_mark_step_begin()
      rows = self._rows()
      x = self._run['prepare'](self._images[rows])
      self._last, _ = self._step(self._run, x, self._labels[rows])
    if wait:
      self._synchronize()

  def _rows(self):
    """Indices of the next batch; every epoch is shuffled anew."""
    batch = self._job['batch']
    rows = next(self._order, None)
    if rows is None:
      count = len(self._labels) // batch
      order = torch.randperm(count * batch, device=self._device)
      self._order = iter(order.view(count, batch))
      rows = next(self._order)
    return rows


class Inference(_Side):
  """Forward passes of a teacher and a student in evaluation mode."""

  def __init__(self, job, variant, arrays):
    super().__init__(job, variant)
    self._nets = {
      role: self._compiled(self._frozen(job[role], arrays[role]))
      for role in ('teacher', 'student')
    }
    height, width, channels = job['teacher']['input_shape']
    shape = (job['batch'], channels, height, width)
    x = torch.randn(shape, device=self._device)
    self._x = x.contiguous(memory_format=self._format)

  def warm_up(self) -> float:
    for role in self._nets:
      self._pass(role)
    seconds = time.perf_counter() - self._began
    for role in self._nets:
      for _ in range(_SETTLING_STEPS):
        self._pass(role)
    return seconds

  def _pass(self, role):
    start = time.perf_counter()
    with torch.no_grad(), self._autocast():
      self._nets[role](self._x)
    self._synchronize()
    return time.perf_counter() - start

  def run(self, seconds: float) -> dict[str, float]:
    """Median milliseconds of a pass, by network, as in lit_jax.latency."""
    del seconds
    medians = {}
    for role in self._nets:
      times: list[float] = []
      start = time.perf_counter()
      while (
        len(times) < _LATENCY_REPEATS
        or time.perf_counter() - start < _LATENCY_SECONDS
      ):
        times.append(self._pass(role))
      medians[f'{role}_ms'] = 1e3 * statistics.median(times)
    return medians

  def finite(self) -> bool:
    return True
