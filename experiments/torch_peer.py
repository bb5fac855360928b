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
from torch.utils._python_dispatch import TorchDispatchMode

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
  """A stem, blocks and a head; the blocks are `blocks_0` and so on."""

  def __init__(self, stem, blocks, head):
    super().__init__()
    self.stem = stem
    self._names = [f'blocks_{i}' for i in range(len(blocks))]
    for name, block in zip(self._names, blocks, strict=True):
      self.add_module(name, block)
    self.head = head

  @property
  def blocks(self):
    return [getattr(self, name) for name in self._names]

  def irs(self, x):
    """What stands at every cut; the head does not run."""
    found = [self.stem(x)]
    for block in self.blocks:
      found.append(block(found[-1]))
    return found

  def forward(self, x):
    irs = self.irs(x)
    return self.head(irs[-1]), irs


def _of_images(width, block_convs, count, shortcut, classes, norm):
  stem, blocks = Stem(width, norm), []
  for i, convs in enumerate(block_convs):
    stride = 1 if i == 0 else 2
    blocks.append(Block(width, convs, count, stride, shortcut, norm))
    width = convs[-1][0]
  return Net(stem, blocks, Head(width, classes))


def resnet(depth, shortcut, classes=10, norm=nn.BatchNorm2d):
  """ResNet of 6n + 2 layers for small images."""
  convs = [[(width, 3, 1)] * 2 for width in (16, 32, 64)]
  return _of_images(16, convs, (depth - 2) // 6, shortcut, classes, norm)


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
  return _of_images(64, convs, (depth - 2) // 6, shortcut, classes, norm)


class Characters(nn.Module):
  """Each character's vector, then a convolution over three characters.

  Convolutions over a text are of images of height 1, which PyTorch makes of
  one-dimensional ones anyway, and which can have another memory layout.
  """

  def __init__(self, vocabulary, length, width):
    super().__init__()
    self.embed = nn.Embedding(vocabulary, length, padding_idx=0)
    self.conv = nn.Conv2d(length, width, (1, 3), padding=(0, 1), bias=False)

  def forward(self, ids):
    return self.conv(self.embed(ids).transpose(1, 2).unsqueeze(2))


class TextUnit(nn.Module):
  """Two convolutions over three places, after the length was halved or not."""

  def __init__(self, inputs, width, halves, downsample, shortcut, norm):
    super().__init__()
    self.halves, self.shortcut = halves and downsample, shortcut
    stride = (1, 2) if self.halves == 'conv' else 1
    options = {'padding': (0, 1), 'bias': False}
    self.conv1 = nn.Conv2d(inputs, width, (1, 3), stride, **options)
    self.norm1 = norm(width)
    self.conv2 = nn.Conv2d(width, width, (1, 3), **options)
    self.norm2 = norm(width)
    self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
    if self.halves == 'max_pool':
      self.pool = nn.MaxPool2d((1, 3), (1, 2), (0, 1))
    elif self.halves == 'k_max':
      self.pool = KMax(None)
    if shortcut and (inputs != width or stride != 1):
      self.shortcut_conv = nn.Conv2d(inputs, width, 1, stride, bias=False)
      self.shortcut_norm = norm(width)

  def forward(self, x):
    if hasattr(self, 'pool'):
      x = self.pool(x)
    h = self.relu1(self.norm1(self.conv1(x)))
    h = self.norm2(self.conv2(h))
    if hasattr(self, 'shortcut_conv'):
      h = h + self.shortcut_norm(self.shortcut_conv(x))
    elif self.shortcut:
      h = h + x
    return self.relu2(h)


class KMaxHead(nn.Module):
  """The k largest values of each channel in order, and three dense layers."""

  def __init__(self, width, k, hidden, classes):
    super().__init__()
    self.pool = KMax(k)
    self.dense1 = nn.Linear(k * width, hidden)
    self.dense2 = nn.Linear(hidden, hidden)
    self.dense3 = nn.Linear(hidden, classes)
    self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

  def forward(self, x):
    h = self.pool(x).permute(0, 2, 3, 1).flatten(1)
    h = self.relu2(self.dense2(self.relu1(self.dense1(h))))
    return self.dense3(h)


class KMax(nn.Module):
  """The k largest of [n, c, 1, length] along the length, in their order.

  Without k, the larger half. Of equal values topk takes any.
  """

  def __init__(self, k):
    super().__init__()
    self.k = k

  def forward(self, x):
    k = self.k or (x.shape[3] + 1) // 2
    return x.gather(3, self.places(x, k).sort(3).values)

  def places(self, x, k):
    return x.topk(k, 3).indices


_TEXT_UNITS = {
  9: (1, 1, 1, 1),
  17: (2, 2, 2, 2),
  29: (5, 5, 2, 2),
  49: (8, 8, 5, 3),
}


def vdcnn(
  depth,
  widths=(64, 128, 256, 512),
  downsample='max_pool',
  shortcut=False,
  k=8,
  hidden=2048,
  embedding=16,
  vocabulary=71,
  classes=2,
  norm=nn.BatchNorm2d,
):
  """VDCNN of 9, 17, 29 or 49 convolutions."""
  blocks, inputs = [], widths[0]
  for i, (width, count) in enumerate(
    zip(widths, _TEXT_UNITS[depth], strict=True)
  ):
    block = nn.Sequential()
    for j in range(count):
      halves = i > 0 and j == 0
      unit = TextUnit(inputs, width, halves, downsample, shortcut, norm)
      block.add_module(f'units_{j}', unit)
      inputs = width
    blocks.append(block)
  stem = Characters(vocabulary, embedding, widths[0])
  return Net(stem, blocks, KMaxHead(widths[-1], k, hidden, classes))


def _instance_norm(width):
  """By each image's own statistics, also in evaluation."""
  return nn.InstanceNorm2d(width, affine=True)


class TranslatorStem(nn.Module):
  """Image and label to a map of a quarter of the height and width.

  Takes (images [n, 3, h, w], labels [n, attributes]); each number of a label
  becomes a channel that is the same everywhere.
  """

  def __init__(self, width, attributes):
    super().__init__()
    inputs, size, stride, padding = 3 + attributes, 7, 1, 3
    for i in range(1, 4):
      outputs = width * 2 ** (i - 1)
      conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
      setattr(self, f'conv{i}', conv)
      setattr(self, f'norm{i}', _instance_norm(outputs))
      inputs, size, stride, padding = outputs, 4, 2, 1
    self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))

  def forward(self, x):
    images, labels = x
    tiled = labels[:, :, None, None].expand(-1, -1, *images.shape[2:])
    h = torch.cat([images, tiled.to(images.dtype)], 1)
    for i, relu in enumerate(self.relus, start=1):
      h = relu(getattr(self, f'norm{i}')(getattr(self, f'conv{i}')(h)))
    return h


class TranslatorUnit(nn.Module):
  """x + body(x), without a ReLU after the sum."""

  def __init__(self, width):
    super().__init__()
    self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
    self.norm1 = _instance_norm(width)
    self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
    self.norm2 = _instance_norm(width)
    self.relu = nn.ReLU()

  def forward(self, x):
    h = self.relu(self.norm1(self.conv1(x)))
    return x + self.norm2(self.conv2(h))


class TranslatorHead(nn.Module):
  """Back to the size of the image; its colours from -1 to 1."""

  def __init__(self, width):
    super().__init__()
    widths = 4 * width, 2 * width, width
    self.conv1 = nn.ConvTranspose2d(*widths[:2], 4, 2, 1, bias=False)
    self.norm1 = _instance_norm(widths[1])
    self.conv2 = nn.ConvTranspose2d(*widths[1:], 4, 2, 1, bias=False)
    self.norm2 = _instance_norm(widths[2])
    self.conv3 = nn.Conv2d(width, 3, 7, padding=3, bias=False)
    self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

  def forward(self, x):
    h = self.relu1(self.norm1(self.conv1(x)))
    h = self.relu2(self.norm2(self.conv2(h)))
    return torch.tanh(self.conv3(h))


def stargan(units, attributes, width=64):
  """StarGAN's generator; it reads (images, labels).

  Args:
    units: residual units of each block, (6,) in the paper.
    attributes: numbers in a label.
    width: of the first convolution.
  """
  blocks = []
  for count in units:
    block = nn.Sequential()
    for i in range(count):
      block.add_module(f'units_{i}', TranslatorUnit(4 * width))
    blocks.append(block)
  return Net(TranslatorStem(width, attributes), blocks, TranslatorHead(width))


class Critic(nn.Module):
  """StarGAN's discriminator: real or not by patches, and the attributes."""

  def __init__(self, size, attributes, width=64):
    """Args:
    size: height and width of the images.
    attributes: numbers in a label.
    width: of the first convolution; each next one has twice as many.
    """
    super().__init__()
    self.count, inputs, outputs = 0, 3, width
    while size >= 4:
      self.count += 1
      setattr(self, f'conv{self.count}', nn.Conv2d(inputs, outputs, 4, 2, 1))
      inputs, outputs, size = outputs, 2 * outputs, size // 2
    self.relu = nn.LeakyReLU(0.01)
    self.real = nn.Conv2d(inputs, 1, 3, padding=1, bias=False)
    self.attributes = nn.Conv2d(inputs, attributes, size, bias=False)

  def forward(self, x):
    """[n, 1, s, s] for the patches, and logits [n, attributes]."""
    for i in range(1, self.count + 1):
      x = self.relu(getattr(self, f'conv{i}')(x))
    return self.real(x), self.attributes(x).flatten(1)


def _stargan_of_depth(depth, attributes, width, norm):
  """A generator of 2n + 6 layers; its norms are its own."""
  del norm
  return stargan(((depth - 6) // 2,), attributes, width)


FAMILIES: dict[str, Callable[..., Net]] = {
  'resnet': resnet,
  'resnext': resnext,
  'stargan': _stargan_of_depth,
  'vdcnn': vdcnn,
}


def build(spec: Mapping[str, Any], norm: Any = nn.BatchNorm2d) -> Net:
  """The network of a specification: 'family' and that function's options."""
  sizes = ('input_shape', 'image_size')
  options = {k: v for k, v in spec.items() if k not in sizes}
  return FAMILIES[options.pop('family')](norm=norm, **options)


def by_flax_path(net: nn.Module):
  """(Flax path, tensor, order of its axes in Flax) of all that is stored."""
  for place, module in net.named_modules():
    place = place.replace('.', '/')
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
      # [kh, kw, out, in] of a transposed one, which is Flax's `ConvTranspose`
      # where `transpose_kernel` is set.
      yield f'params/{place}/kernel', module.weight, (2, 3, 1, 0)
      if module.bias is not None:
        yield f'params/{place}/bias', module.bias, (0,)
    elif isinstance(module, nn.Embedding):
      # The first row is of padding: zeros, which Flax does not store.
      place = place.rpartition('/')[0]
      yield f'params/{place}/table', module.weight[1:], (0, 1)
    elif isinstance(module, nn.Linear):
      yield f'params/{place}/kernel', module.weight, (1, 0)
      yield f'params/{place}/bias', module.bias, (0,)
    elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
      yield f'params/{place}/scale', module.weight, (0,)
      yield f'params/{place}/bias', module.bias, (0,)
      if isinstance(module, nn.InstanceNorm2d):
        continue
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
      follows = getattr(module, norm, None)
      if isinstance(conv, nn.Conv2d) and isinstance(follows, nn.BatchNorm2d):
        setattr(module, name, fuse_conv_bn_eval(conv, follows))
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


def mirror(images: torch.Tensor) -> torch.Tensor:
  """Half of the images mirrored, at random; uint8 [n, h, w, c]."""
  mirrored = torch.rand(len(images), device=images.device) < 0.5
  return torch.where(mirrored[:, None, None, None], images.flip(2), images)


def lit_loss(student, job, x, labels, wanted, targets):
  """Eq. 1 to 3 of the paper: the total, and its parts stacked.

  Args:
    student: the network that learns.
    job: α, β, τ and the IR loss.
    x: normalised images, or ids.
    labels: integers [n]; these and the logits are not used where β is 0.
    wanted: the teacher's logits.
    targets: the teacher's IRs (T_0, …, T_k).
  """
  irs = student.irs(x)
  # Block 1 has the same input in both passes.
  found = [irs[1]]
  for block, target in zip(student.blocks[1:], targets[1:], strict=False):
    found.append(block(target))
  compare = _IR_LOSSES[job['ir_loss']]
  parts = [compare(f, t) for f, t in zip(found, targets[1:], strict=True)]
  ir = torch.stack(parts)
  loss = (1 - job['beta']) * ir.sum()
  if job['beta'] > 0:
    logits, tau = student.head(irs[-1]), job['temperature']
    hard = F.cross_entropy(logits, labels)
    soft = tau**2 * F.cross_entropy(logits / tau, F.softmax(wanted / tau, -1))
    kd = job['alpha'] * hard + (1 - job['alpha']) * soft
    loss = loss + job['beta'] * kd
  return loss, ir.detach()


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


class _Operators(TorchDispatchMode):
  """Counts what is dispatched within, but for views, which compute nothing."""

  def __init__(self):
    super().__init__()
    self.count = 0

  def __torch_dispatch__(self, func, types, args=(), kwargs=None):
    results = [result.alias_info for result in func._schema.returns]
    self.count += not any(alias and not alias.is_write for alias in results)
    return func(*args, **(kwargs or {}))


class Training(_Side):
  """LIT steps of a teacher and a student."""

  def __init__(self, job, variant, arrays, inputs, labels):
    """Args:
    job: the settings, plain values.
    variant: see `_Side`.
    arrays: {'teacher': …, 'student': …}, variables by Flax path.
    inputs: uint8 [n, …], images or character ids, n at least one batch.
    labels: int32 [n].
    """
    super().__init__(job, variant)
    torch.manual_seed(0)
    self._arrays = arrays
    self._inputs = torch.from_numpy(inputs).to(self._device)
    self._labels = torch.from_numpy(labels).long().to(self._device)
    self._as_is = job['colours'] is None
    if not self._as_is:
      colours = torch.tensor(job['colours'], device=self._device)
      self._mean, self._std = colours * 255
    self._begin()
    self._plain = self._functions()
    self._run = {k: self._compiled(f) for k, f in self._plain.items()}
    self._order = iter(())
    self._last = torch.zeros(())

  def _functions(self):
    """What a step is made of, and torch.compile may take, by name."""
    teacher = self._frozen(self._job['teacher'], self._arrays['teacher'])
    return {'prepare': self._prepare, 'teacher': teacher, 'loss': self._loss}

  def _begin(self):
    """The student and its optimiser at the first step."""
    job = self._job
    if not hasattr(self, '_student'):
      self._student = self._network(job['student'], self._arrays['student'])
      self._student.train()
      for part in job['frozen']:
        getattr(self._student, part).eval().requires_grad_(False)
    load(self._student, self._arrays['student'])
    self._optimizer = self._rule(self._student)

  def _rule(self, net):
    """An optimiser of what learns in the network."""
    job, rate = self._job, self._job['learning_rate']
    learning = [p for p in net.parameters() if p.requires_grad]
    fused = {'fused': True} if self._best else {}
    if job['adam_betas']:
      return torch.optim.Adam(learning, rate, job['adam_betas'], **fused)
    return torch.optim.SGD(
      learning,
      rate,
      job['momentum'],
      weight_decay=job['weight_decay'],
      **fused,
    )

  def _prepare(self, inputs):
    return self._normalize(inputs if self._as_is else augment(inputs))

  def _normalize(self, inputs):
    if self._as_is:
      return inputs.int()
    x = (inputs.float() - self._mean) / self._std
    x = x.permute(0, 3, 1, 2)
    return x.contiguous(memory_format=self._format)

  def _loss(self, x, labels, wanted, targets):
    return lit_loss(self._student, self._job, x, labels, wanted, targets)

  def _step(self, run, x, labels):
    """One step on normalised inputs; the loss and its parts."""
    with self._autocast():
      with torch.no_grad():
        wanted, targets = run['teacher'](x)
      loss, parts = run['loss'](x, labels, wanted, targets)
    self._optimizer.zero_grad(set_to_none=True)
    loss.backward()
    self._optimizer.step()
    return loss.detach(), parts

  def _given(self, *arrays):
    """A step's arguments, from one step of what `check` is given."""
    inputs, labels = arrays
    return self._normalize(inputs), labels.long()

  def _drawn(self, rows):
    """A step's arguments, from the indices of its examples."""
    return self._run['prepare'](self._inputs[rows]), self._labels[rows]

  def check(self, *arrays) -> list[list[float]]:
    """Each step's losses in float32, not augmented, as ours.Reference has them.

    On a CPU in fp32 the functions are those that are timed; elsewhere the
    same ones, not compiled and without shorter mantissas.

    Args:
      *arrays: what ours.Reference.given says, each [steps, batch, …].
    """
    job, self._job = self._job, {**self._job, 'precision': 'fp32'}
    run = self._plain
    if self._device == 'cpu' and job['precision'] == 'fp32':
      run = self._run
    allowed = torch.backends.cudnn.allow_tf32
    precision = torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision('highest')
    found = []
    for step in zip(*arrays, strict=True):
      own = (torch.from_numpy(array).to(self._device) for array in step)
      loss, parts = self._step(run, *self._given(*own))
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
    """Seconds from the start to the end of the first cycle; runs a few more."""
    cycle = self._job['cycle']
    self._steps(cycle)
    seconds = time.perf_counter() - self._began
    self._steps(math.ceil(_SETTLING_STEPS / cycle) * cycle)
    return seconds

  def run(self, seconds: float) -> dict[str, float]:
    """Trains for about that long, whole cycles and at least one."""
    steps, start = 0, time.perf_counter()
    while not steps or time.perf_counter() - start < seconds:
      self._steps(self._job['cycle'], wait=False)
      steps += self._job['cycle']
    self._synchronize()
    return {'steps_per_s': steps / (time.perf_counter() - start)}

  def operators(self) -> float:
    """Operators that PyTorch dispatches in a step, the mean over a cycle.

    The optimiser takes all parameters at once, as it does on a GPU by default.
    """
    cycle = self._job['cycle']
    self._take_all_at_once()
    # The first ones also make the optimiser's state.
    self._steps(cycle)
    with _Operators() as operators:
      self._steps(cycle)
    return operators.count / cycle

  def _take_all_at_once(self):
    for optimizer in self._optimizers():
      for group in optimizer.param_groups:
        group['foreach'] = True

  def _optimizers(self):
    return [self._optimizer]

  def finite(self) -> bool:
    return math.isfinite(self._last.item())

  def _steps(self, count, wait=True):
    for _ in range(count):
      if self._mode is not None and self._device == 'cuda':
        torch.compiler.cudagraph_mark_step_begin()
      self._last, _ = self._step(self._run, *self._drawn(self._rows()))
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


class Translation(Training):
  """LIT steps of StarGAN's generators; β is 0.

  Inputs are images and their labels. Asked for are the labels of the batch in
  another order.
  """

  def __init__(self, job, variant, arrays, inputs, labels):
    """As `Training`, but for inputs {'image': …, 'label': uint8 [n, c]}."""
    del labels
    super().__init__(job, variant, arrays, inputs['image'], inputs['label'])

  def _functions(self):
    functions = super()._functions()
    teacher = functions['teacher']
    return functions | {'teacher': lambda x: (None, teacher.irs(x))}

  def _prepare(self, inputs):
    return self._normalize(mirror(inputs))

  def _given(self, *arrays):
    images, _, targets, _ = arrays
    return (self._normalize(images), targets.float()), None

  def _drawn(self, rows):
    images = self._run['prepare'](self._inputs[rows])
    return (images, self._shuffled(self._labels[rows].float())), None

  def _shuffled(self, labels):
    return labels[torch.randperm(len(labels), device=self._device)]


class Adversarial(Translation):
  """Steps of a critic, and at the end of every cycle one of the generator.

  The loss is WGAN-GP's, with attributes and reconstruction, by the equations of
  Choi et al. 2018. PyTorch compiles no second derivatives, so the penalty alone
  is never compiled.
  """

  def _begin(self):
    super()._begin()
    job, arrays = self._job, self._arrays['discriminator']
    if not hasattr(self, '_critic'):
      options = job['student']['image_size'], job['student']['attributes']
      critic = Critic(*options, job['translate']['discriminator_width'])
      self._critic = critic.to(self._device, memory_format=self._format)
    load(self._critic, arrays)
    self._critic_optimizer = self._rule(self._critic.requires_grad_(True))
    self._count = 0

  def _optimizers(self):
    return [self._optimizer, self._critic_optimizer]

  def _functions(self):
    return {
      'prepare': self._prepare,
      'translate': lambda images, labels: self._student((images, labels))[0],
      'judge': self._judge,
      'deceive': self._deceive,
    }

  def _given(self, *arrays):
    images, own, targets, mix = arrays
    return self._normalize(images), own.float(), targets.float(), mix

  def _drawn(self, rows):
    images = self._run['prepare'](self._inputs[rows])
    own = self._labels[rows].float()
    mix = torch.rand(len(own), device=self._device)
    return images, own, self._shuffled(own), mix

  def _step(self, run, images, own, targets, mix):
    self._count += 1
    loss, parts = self._teach_critic(run, images, own, targets, mix)
    if self._count % self._job['cycle'] == 0:
      with self._autocast():
        told = run['deceive'](images, own, targets)
      self._optimizer.zero_grad(set_to_none=True)
      told[0].backward()
      self._optimizer.step()
      parts = [*parts, *told]
    return loss.detach(), torch.stack(parts).detach()

  def _teach_critic(self, run, images, own, targets, mix):
    """The critic's step; its loss, and the part of the attributes."""
    self._critic.requires_grad_(True)
    with self._autocast():
      with torch.no_grad():
        fake = run['translate'](images, targets)
      on_real, on_fake, wrong = run['judge'](images, fake, own)
    penalty = self._penalty(images, fake.float(), mix)
    weights = self._job['translate']
    loss = (
      on_fake
      - on_real
      + weights['gradient_penalty'] * penalty
      + weights['classification'] * wrong
    )
    self._critic_optimizer.zero_grad(set_to_none=True)
    loss.backward()
    self._critic_optimizer.step()
    self._critic.requires_grad_(False)
    return loss, [wrong]

  def _judge(self, real, fake, own):
    """How real both are, and how far the attributes of the real are missed."""
    on_real, logits = self._critic(real)
    on_fake, _ = self._critic(fake)
    return on_real.mean(), on_fake.mean(), self._wrong(logits, own)

  def _wrong(self, logits, label):
    wrong = F.binary_cross_entropy_with_logits(logits, label, reduction='sum')
    return wrong / len(label)

  def _penalty(self, real, fake, mix):
    m = mix[:, None, None, None]
    mixed = (m * real + (1 - m) * fake).requires_grad_()
    realness, _ = self._critic(mixed)
    (slopes,) = torch.autograd.grad(realness.sum(), mixed, create_graph=True)
    norms = (slopes.square().sum((1, 2, 3)) + 1e-12).sqrt()
    return (norms - 1).square().mean()

  def _deceive(self, images, own, targets):
    """The generator's loss, and of it attributes and reconstruction."""
    fake, _ = self._student((images, targets))
    realness, logits = self._critic(fake)
    back, _ = self._student((fake, own))
    realness, wrong = realness.mean(), self._wrong(logits, targets)
    error = (images - back).abs().mean()
    weights = self._job['translate']
    loss = (
      weights['classification'] * wrong
      + weights['reconstruction'] * error
      - realness
    )
    return loss, wrong, error


def training(job, *args) -> Training:
  """The contestant that trains by this job; arguments are `Training`'s."""
  if job['adversarial']:
    return Adversarial(job, *args)
  return (Translation if job['translate'] else Training)(job, *args)


class Inference(_Side):
  """Forward passes of a teacher and a student in evaluation mode."""

  def __init__(self, job, variant, arrays):
    super().__init__(job, variant)
    self._nets = {
      role: self._compiled(self._frozen(job[role], arrays[role]))
      for role in ('teacher', 'student')
    }
    self._x = self._noise(job['batch'], job['teacher'])

  def _noise(self, batch, spec):
    if 'image_size' in spec:
      shape = spec['image_size'], spec['image_size'], 3
      label = torch.randn((batch, spec['attributes']), device=self._device)
      return self._noise(batch, {'input_shape': shape}), label
    shape = spec['input_shape']
    if len(shape) == 1:
      return torch.randint(32, (batch, *shape), device=self._device)
    height, width, channels = shape
    x = torch.randn((batch, channels, height, width), device=self._device)
    return x.contiguous(memory_format=self._format)

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
    """Median milliseconds of a pass, by network, as in latency.py."""
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
