"""The benchmark's GAN in PyTorch: shapes, parameters, and two of its layers.

The classifiers of the same file are held to ours by parity_test.py.
"""

import numpy as np
import pytest
from flax import linen as nn

torch = pytest.importorskip(
  'torch', reason="needs PyTorch: pip install -e '.[torch]'"
)

from experiments import torch_peer  # noqa: E402


def _count(net):
  return sum(parameter.numel() for parameter in net.parameters())


def _noise(*shape):
  return torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float()


def test_parameters_of_the_papers_networks():
  # 128x128 images of CelebA with five attributes.
  generator = torch_peer.stargan((6,), attributes=5)
  w, c = 64, 5
  stem = 49 * (3 + c) * w + 16 * (w * 2 * w + 2 * w * 4 * w) + 2 * 7 * w
  unit = 2 * (9 * (4 * w) ** 2 + 2 * 4 * w)
  head = 16 * (4 * w * 2 * w + 2 * w * w) + 2 * 3 * w + 49 * w * 3
  assert _count(generator) == stem + 6 * unit + head == 8_430_528
  with torch.device('meta'):
    critic = torch_peer.Critic(128, attributes=5)
  widths = [3, 64, 128, 256, 512, 1024, 2048]
  convolutions = sum(
    16 * a * b + b for a, b in zip(widths, widths[1:], strict=False)
  )
  heads = 9 * 2048 + 4 * 2048 * 5
  assert _count(critic) == convolutions + heads == 44_762_048


def test_shapes_of_the_generator():
  net = torch_peer.stargan((1, 2), attributes=4, width=8)
  image, irs = net((_noise(2, 3, 16, 24), _noise(2, 4)))
  assert image.shape == (2, 3, 16, 24)
  assert image.abs().max() <= 1
  assert [tuple(ir.shape) for ir in irs] == [(2, 32, 4, 6)] * 3
  assert [len(block) for block in net.blocks] == [1, 2]
  assert not any(
    name.endswith('conv1.bias') for name, _ in net.named_parameters()
  )


def test_a_label_is_the_same_everywhere_and_changes_the_image():
  net = torch_peer.stargan((1,), attributes=2, width=4)
  images = _noise(1, 3, 16, 16)
  # Whole numbers are labels as well.
  first, _ = net((images, torch.tensor([[1, 0]])))
  second, _ = net((images, torch.tensor([[0.0, 1.0]])))
  assert (first - second).abs().max() > 1e-3
  seen = []
  net.stem.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
  net((images, torch.tensor([[5.0, 7.0]])))
  assert torch.equal(seen[0][:, :3], images)
  assert (seen[0][:, 3] == 5).all() and (seen[0][:, 4] == 7).all()


def test_a_unit_adds_to_what_it_reads():
  unit = torch_peer.TranslatorUnit(4)
  with torch.no_grad():
    unit.norm2.weight.zero_()
  x = _noise(2, 4, 5, 5)
  # No ReLU after the sum: what is below 0 stays.
  assert torch.equal(unit(x), x) and x.min() < 0


def test_an_image_is_normalised_alone_in_both_modes():
  net = torch_peer.stargan((1,), attributes=1, width=4)
  images, labels = _noise(3, 3, 8, 8), _noise(3, 1)
  whole, _ = net((images, labels))
  alone, _ = net.eval()((images[:1], labels[:1]))
  torch.testing.assert_close(whole[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'size, count, left', [(128, 6, 2), (64, 5, 2), (32, 4, 2), (48, 4, 3)]
)
def test_shapes_of_the_critic(size, count, left):
  net = torch_peer.Critic(size, attributes=7, width=2)
  real, attributes = net(_noise(2, 3, size, size))
  assert net.count == count
  assert real.shape == (2, 1, left, left) and attributes.shape == (2, 7)
  assert net.conv1.bias is not None and net.real.bias is None
  assert net.attributes.bias is None


def test_paths_name_all_parameters():
  for net in (
    torch_peer.stargan((1, 1), attributes=2, width=4),
    torch_peer.Critic(16, attributes=2, width=4),
  ):
    leaves = list(torch_peer.by_flax_path(net))
    assert sum(tensor.numel() for _, tensor, _ in leaves) == _count(net)
    paths = {path for path, _, _ in leaves}
    assert len(paths) == len(leaves)
    assert all(path.startswith('params/') for path in paths)
    arrays = {
      path: np.full([tensor.shape[axis] for axis in order], 3, np.float32)
      for path, tensor, order in leaves
    }
    torch_peer.load(net, arrays)
    assert all((parameter == 3).all() for parameter in net.parameters())


def test_transposed_kernels_are_those_of_flax():
  conv = torch.nn.ConvTranspose2d(3, 2, 4, 2, 1, bias=False)
  ((_, kernel, order),) = torch_peer.by_flax_path(conv)
  ours = nn.ConvTranspose(
    2, (4, 4), (2, 2), use_bias=False, transpose_kernel=True
  )
  x = _noise(1, 3, 5, 6)
  variables = {'params': {'kernel': kernel.detach().permute(*order).numpy()}}
  found = ours.apply(variables, x.permute(0, 2, 3, 1).numpy())
  wanted = conv(x).detach().permute(0, 2, 3, 1).numpy()
  assert wanted.shape == (1, 10, 12, 2)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
