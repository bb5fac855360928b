"""What `lit-jax export --to=torch` wrote, as a module of PyTorch.

Needs PyTorch and safetensors alone, and may be copied (docs/export.md).
"""
# pyright: reportMissingImports=false, reportArgumentType=false

from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F


class ResNet(nn.Module):
  def __init__(self, path):
    super().__init__()
    for key, array in load_file(path).items():
      kind = nn.Buffer if 'running_' in key else nn.Parameter
      setattr(self, key.replace('.', '_'), kind(array))

  def layer(self, x, conv, norm, stride=1):
    kernel = getattr(self, conv + '_weight')
    pad, groups = kernel.shape[2] // 2, x.shape[1] // kernel.shape[1]
    x = F.conv2d(x, kernel, None, stride, pad, 1, groups)
    keys = 'running_mean', 'running_var', 'weight', 'bias'
    own = [getattr(self, f'{norm}_{key}') for key in keys]
    return F.batch_norm(x, *own, training=self.training)

  def unit(self, x, name, stride):
    h, count = x, 3 if hasattr(self, name + '_conv3_weight') else 2
    for n in range(1, count + 1):
      step = stride if n == count - 1 else 1
      h = self.layer(F.relu(h), f'{name}_conv{n}', f'{name}_bn{n}', step)
    if hasattr(self, (down := name + '_downsample_') + '0_weight'):
      return F.relu(h + self.layer(x, down + '0', down + '1', stride))
    x, pad = x[:, :, ::stride, ::stride], (h.shape[1] - x.shape[1]) // 2
    return F.relu(h + F.pad(x, (0, 0, 0, 0, pad, pad)))

  def forward(self, x):
    x, block, i = F.relu(self.layer(x, 'conv1', 'bn1')), 1, 0
    while hasattr(self, (unit := f'layer{block}_{i}') + '_conv1_weight'):
      x = self.unit(x, unit, 2 if block > 1 and i == 0 else 1)
      more = hasattr(self, f'layer{block}_{i + 1}_conv1_weight')
      block, i = (block, i + 1) if more else (block + 1, 0)
    return F.linear(x.mean((2, 3)), self.fc_weight, self.fc_bias)
