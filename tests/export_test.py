"""Students as files of other programs: equal there, or not written at all."""
# pyright: reportMissingImports=false

import functools
import json
import pathlib
import re
import sys

import jax
import numpy as np
import pytest
from flax import traverse_util

from lit_jax import blocks, models
from lit_jax.data.images import class_names
from lit_jax.errors import UserError
from lit_jax.networks import export, pytorch, saved
from lit_jax.networks.export import int8

ROOT = pathlib.Path(__file__).parents[1]
STUDENT = 'resnet-8-fashion-mnist-mini'
MEAN, STD = [0.49, 0.48, 0.45], [0.25, 0.24, 0.26]
IMAGES = {'kind': 'images', 'mean': MEAN, 'std': STD}
SPECS = {
  'resnet': {
    'family': 'resnet', 'depth': 8, 'shortcut': 'conv', 'inner': [4, 8, 8],
  },
  'bottleneck': {
    'family': 'resnext', 'units': [1, 2, 1], 'cardinality': 2, 'base_width': 2,
  },
  'basic': {
    'family': 'resnext', 'depth': 8, 'cardinality': 4, 'base_width': 4,
    'unit': 'basic', 'shortcut': 'pad',
  },
}  # fmt: skip
VDCNN = {
  'family': 'vdcnn', 'depth': 9, 'classes': 3, 'input_shape': [64],
  'widths': [8, 8, 8, 8], 'hidden': 8, 'k': 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _extras(request):
  """Skips a format whose extra is not there."""
  to = getattr(request.node, 'callspec', None)
  needed = _needed(to.params.get('to') if to else None)
  for name, package in needed:
    pytest.importorskip(
      package, reason=f"needs {package}: pip install -e '.[{name}]'"
    )


def _needed(to):
  result = [('gan', 'safetensors')]
  if to == 'stablehlo':
    result.append(('stablehlo', 'flatbuffers'))
  if to == 'onnx':
    result += [('onnx', 'jax2onnx'), ('onnx', 'onnxruntime')]
  return result


@pytest.fixture
def run(lit_jax_command):
  """`lit-jax export`: exit code, stdout, stderr."""
  return functools.partial(lit_jax_command, 'export')


@pytest.fixture
def save(tmp_path):
  """The folder of a network as after some training."""

  def write(spec, fed_by=IMAGES, dataset='cifar10'):
    options = {'classes': 10, 'input_shape': [8, 8, 3]} | spec
    rng = np.random.default_rng(5)

    def draw(path, leaf):
      name = path[-1].key
      if name in ('kernel', 'embedding'):
        share = leaf.shape[-1] / max(leaf.size, 1)
        values = rng.normal(0, (2 * share) ** 0.5, leaf.shape)
      else:
        middle = 1.0 if name in ('scale', 'var') else 0.0
        values = middle + rng.uniform(-0.3, 0.3, leaf.shape)
      return values.astype(np.float32)

    shapes = blocks.shapes(models.build(options))
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    names = list(class_names.CIFAR10)[: options['classes']]
    facts = saved.Facts(options, dataset, names, dict(fed_by), 'fp32', '', {})
    saved.save(tmp_path / 'network', facts, variables)
    return tmp_path / 'network'

  return write


def _path(tmp_path, to):
  return tmp_path / 'out' / f'net{export.FORMATS[to].suffix}'


# What is written.


@pytest.mark.parametrize('to', ['safetensors', 'stablehlo', 'onnx', 'torch'])
def test_a_students_file_is_kept_where_it_is_equal(to, run, tmp_path):
  path = _path(tmp_path, to)
  code, out, err = run(STUDENT, f'--to={to}', f'--out={path}')
  assert (code, err) == (0, '')
  assert f'{path}: resnet-8, 10 classes' in out
  assert 'of 1000 test images of fashion_mnist_mini' in out
  beside = path.with_name(f'{path.name}.json')
  assert sorted(path.parent.iterdir()) == sorted([path, beside])
  said, facts = json.loads(beside.read_text()), saved.load(STUDENT)[0]
  assert said['spec'] == facts.spec and said['digest'] == facts.digest
  assert said['classes'] == list(class_names.FASHION_MNIST)
  assert said['input'] == {'kind': 'images', 'mean': [0.286], 'std': [0.353]}
  assert said['format'] == to and said['preprocessed'] is False
  # It is there now, and is not written over.
  code, _, err = run(STUDENT, f'--to={to}', f'--out={path}')
  assert code == 2 and f'{path} is there already; name a new file' in err


@pytest.mark.parametrize('to', ['stablehlo', 'onnx'])
def test_programs_normalise_images_themselves(to, save, tmp_path):
  folder, path = save(SPECS['resnet']), _path(tmp_path, to)
  found = export.export(folder, to, path, preprocess=True)
  assert found.inputs.startswith('random inputs') and found.examples == 256
  assert json.loads(found.beside.read_text())['preprocessed'] is True
  # As its users read it, and not through our own reader.
  rng = np.random.default_rng(8)
  images = rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
  if to == 'onnx':
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    (logits,) = session.run(None, {'input': images})
  else:
    logits = jax.export.deserialize(path.read_bytes()).call(images)
  x = (images / 255 - np.array(MEAN)) / np.array(STD)
  _, variables = saved.load(folder)
  net = models.build(found.facts.spec)
  wanted = jax.jit(net.apply)(variables, x.astype(np.float32))[0]
  assert np.abs(np.asarray(wanted)).max() > 0.1
  np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize('to', ['stablehlo', 'onnx', 'torch'])
@pytest.mark.parametrize('kind', ['bottleneck', 'basic'])
def test_resnexts_are_equal(to, kind, save, tmp_path):
  found = export.export(save(SPECS[kind]), to, _path(tmp_path, to))
  assert 0 < found.largest < export.TOLERANCE


@pytest.mark.parametrize('to', ['safetensors', 'stablehlo', 'onnx'])
def test_texts_are_equal(to, save, tmp_path):
  from lit_jax.data.preprocess import TextPreprocess

  folder = save(VDCNN, TextPreprocess().facts(), 'fine_foods')
  found = export.export(folder, to, _path(tmp_path, to))
  assert found.largest < export.TOLERANCE and found.examples == 256


@pytest.mark.parametrize('to', ['safetensors', 'stablehlo', 'onnx'])
def test_weights_of_8_bits(to, run, tmp_path):
  path, full = (tmp_path / name / _path(tmp_path, to).name for name in 'ab')
  code, out, err = run(STUDENT, f'--to={to}', f'--out={path}', '--int8')
  assert (code, err) == (0, '')
  _, variables = saved.load(STUDENT)
  # By hand: each output channel in steps of its largest weight over 127.
  kernel = np.asarray(variables['params']['head']['dense']['kernel'])
  step = np.abs(kernel).max(0) / 127
  rounded = np.round(kernel / step) * step
  found = export.export(STUDENT, to, full).path.stat().st_size
  assert path.stat().st_size < 0.45 * found
  said = json.loads(path.with_name(f'{path.name}.json').read_text())
  assert said['rounded_from'] == saved.load(STUDENT)[0].digest
  # Of 1,000 images.
  equal = int(re.search(r'of float32 for (\d+) of 1000', out)[1])
  own, exact = map(
    float, re.search(r'and (\S+) % are right, (\S+) %', out).groups()
  )
  assert 950 < equal and 80 < exact and abs(own - exact) < 2
  if to == 'safetensors':
    facts, own = export.load(path)
    assert facts.digest == said['digest'] != said['rounded_from']
    found = own['params']['head']['dense']['kernel']
    np.testing.assert_allclose(found, rounded, rtol=1e-6)
    assert np.abs(found - kernel).max() > 0


def test_a_channel_of_zeros_stays_zero():
  kernel = np.array([[0.0, 1.0], [0.0, -0.3]], np.float32)
  stored = int8.rounded({'kernel': kernel, 'bias': kernel[0]})
  assert stored['kernel'].values.tolist() == [[0, 127], [0, -38]]
  own = int8.restored(stored)
  np.testing.assert_allclose(own['kernel'], [[0, 1], [0, -38 / 127]], rtol=1e-6)
  np.testing.assert_array_equal(own['bias'], kernel[0])


@pytest.mark.slow
@pytest.mark.parametrize('to', ['stablehlo', 'onnx'])
def test_a_file_is_timed_beside_the_teachers(to, save, run, tmp_path):
  small = save(SPECS['resnet'])
  (tmp_path / 'student').mkdir()
  small = small.rename(tmp_path / 'student' / 'network')
  large = save(SPECS['resnet'] | {'depth': 20, 'inner': []})
  path = _path(tmp_path, to)
  words = f'--to={to}', f'--out={path}', f'--against={large}'
  code, out, err = run(small, *words)
  assert (code, err) == (0, '')
  for batch in (1, 128):
    (line,) = [
      x for x in out.splitlines() if x.startswith(f'batch of {batch}:')
    ]
    own, theirs, ratio = re.search(
      r': (\S+) ms .* (\S+) ms \(.*: (\S+) times as fast', line
    ).groups()
    assert float(theirs) / float(own) == pytest.approx(float(ratio), rel=0.02)
  # Nothing of the teacher is left.
  assert len(list(path.parent.iterdir())) == 2


def test_safetensors_are_loaded_with_their_facts(save, tmp_path):
  folder, path = save(SPECS['resnet']), _path(tmp_path, 'safetensors')
  assert export.export(folder, 'safetensors', path).largest < 1e-5
  facts, variables = export.load(path)
  wanted, arrays = saved.load(folder)
  assert facts.spec == wanted.spec and facts.input == wanted.input
  jax.tree.map(np.testing.assert_array_equal, variables, dict(arrays))
  beside = path.with_name(f'{path.name}.json')
  text = beside.read_text()
  for damage, fault in (
    (text.replace(wanted.digest, 'a' * 64), 'does not hold the arrays of'),
    (text.replace('"spec"', '"speck"'), 'does not say which network this is'),
    ('[]', 'does not say which network this is'),
  ):
    beside.write_text(damage)
    with pytest.raises(UserError, match=fault):
      export.load(path)


def test_the_torch_layout_is_imported_again(save, tmp_path):
  folder, path = save(SPECS['basic']), _path(tmp_path, 'torch')
  export.export(folder, 'torch', path)
  told = pytorch.Told(padding='both', size=8)
  found = pytorch.load(path, 'resnext', told)
  assert found.preprocess.mean == tuple(MEAN)
  flat = traverse_util.flatten_dict(saved.load(folder)[1], sep='/')
  again = traverse_util.flatten_dict(found.variables, sep='/')
  assert again.keys() == flat.keys()
  for place, array in flat.items():
    np.testing.assert_array_equal(again[place], array)


def test_the_loader_of_the_documents_is_the_one_that_was_compared():
  text = (ROOT / 'docs/export.md').read_text()
  start = text.index('from safetensors.torch')
  shown = text[start : text.index('```', start)]
  source = (ROOT / 'lit_jax/networks/export/torch_net.py').read_text()
  assert source.endswith(shown)
  lines = [line for line in shown.splitlines() if line.strip()]
  assert len([line for line in lines if not line.startswith('from ')]) <= 30


def test_the_loader_can_be_trained(save, tmp_path):
  torch = pytest.importorskip(
    'torch', reason="needs PyTorch: pip install -e '.[torch]'"
  )
  from lit_jax.networks.export.torch_net import ResNet

  path = _path(tmp_path, 'torch')
  export.export(save(SPECS['bottleneck']), 'torch', path)
  net = ResNet(path)
  mean = net.bn1_running_mean.clone()
  net(torch.ones(2, 3, 8, 8)).sum().backward()
  assert net.conv1_weight.grad.abs().max() > 0
  assert not torch.equal(mean, net.bn1_running_mean)


# What is refused.


def _changed(student):
  """Another network of the same shapes: one weight is not what it was."""
  variables = jax.tree.map(np.array, student.variables)
  variables['params']['head']['dense']['bias'][0] += 2e-4
  return student._replace(variables=variables, stored=variables)


@pytest.mark.parametrize('to', ['safetensors', 'stablehlo', 'onnx', 'torch'])
def test_a_file_that_differs_is_refused(to, save, run, tmp_path, monkeypatch):
  kind = export.FORMATS[to]
  monkeypatch.setitem(
    export.FORMATS,
    to,
    kind._replace(encode=lambda s, p: kind.encode(_changed(s), p)),
  )
  path = _path(tmp_path, to)
  folder = save(SPECS['resnet'])
  code, out, err = run(folder, f'--to={to}', f'--out={path}')
  assert (code, out) == (2, '') and err.count('\n') == 1
  assert 'logits that differ by up to 0.0002, where 1e-04 is allowed' in err
  assert not path.parent.exists()


@pytest.mark.parametrize('to', ['safetensors', 'stablehlo', 'onnx', 'torch'])
def test_a_file_that_cannot_be_read_is_refused(
  to, save, run, tmp_path, monkeypatch
):
  kind = export.FORMATS[to]._replace(encode=lambda student, preprocess: b'no')
  monkeypatch.setitem(export.FORMATS, to, kind)
  path = _path(tmp_path, to)
  path.parent.mkdir()
  code, out, err = run(save(SPECS['resnet']), f'--to={to}', f'--out={path}')
  assert (code, out) == (2, '') and err.count('\n') == 1
  assert f'the new {path.name} is not read by' in err
  assert list(path.parent.iterdir()) == []


def test_what_a_converter_does_not_know_is_told(save, tmp_path, monkeypatch):
  def encode(*args):
    raise NotImplementedError('no such convolution\nin version 1')

  kind = export.FORMATS['stablehlo']._replace(encode=encode)
  monkeypatch.setitem(export.FORMATS, 'stablehlo', kind)
  path = _path(tmp_path, 'stablehlo')
  with pytest.raises(UserError, match=r'as stablehlo \(no such convolution\)'):
    export.export(save(SPECS['resnet']), 'stablehlo', path)
  assert not path.parent.exists()


def test_8_bits_are_not_for_torch(save, run, tmp_path):
  path = _path(tmp_path, 'torch')
  words = '--to=torch', f'--out={path}', '--int8'
  code, out, err = run(save(SPECS['resnet']), *words)
  assert (code, out) == (2, '') and err.count('\n') == 1
  assert 'leave --int8 out, or export safetensors, stablehlo, onnx' in err


def test_another_that_reads_something_else(save, run, tmp_path):
  path = _path(tmp_path, 'safetensors')
  words = '--to=safetensors', f'--out={path}', f'--against={STUDENT}'
  code, out, err = run(save(SPECS['resnet']), *words)
  assert (code, out) == (2, '') and err.count('\n') == 1
  assert f'{STUDENT} reads (28, 28, 1) float32' in err
  assert not path.parent.exists()


def test_nan_is_a_difference(save, tmp_path, monkeypatch):
  kind = export.FORMATS['safetensors']

  def read(*args):
    run = kind.read(*args)
    return lambda x: run(x) * np.float32('nan')

  monkeypatch.setitem(export.FORMATS, 'safetensors', kind._replace(read=read))
  path = _path(tmp_path, 'safetensors')
  with pytest.raises(UserError, match='differ by up to nan'):
    export.export(save(SPECS['resnet']), 'safetensors', path)


@pytest.mark.parametrize(
  'package, to, extra',
  [
    ('flatbuffers', 'stablehlo', 'stablehlo'),
    ('onnxruntime', 'onnx', 'onnx'),
    ('jax2onnx', 'onnx', 'onnx'),
    ('safetensors', 'torch', 'gan'),
  ],
)
def test_a_missing_extra_is_told(
  package, to, extra, run, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, package, None)
  path = _path(tmp_path, to)
  code, out, err = run(STUDENT, f'--to={to}', f'--out={path}')
  assert (code, out) == (2, '') and err.count('\n') == 1
  assert f"needs the extra '{extra}'" in err
  assert not path.parent.exists()


def test_without_pytorch_it_is_said_that_it_has_not_computed(
  run, save, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'torch', None)
  for spec in ('resnet', 'basic'):
    path = tmp_path / f'{spec}.safetensors'
    code, out, _ = run(save(SPECS[spec]), '--to=torch', f'--out={path}')
    assert code == 0 and path.exists()
    assert 'PyTorch is not installed, and has not computed it' in out


def test_bad_input_is_a_line_and_code_2(run, save, tmp_path):
  onnx, weights = tmp_path / 'net.onnx', tmp_path / 'net.safetensors'
  program, taken = tmp_path / 'net.stablehlo', tmp_path / 'a.stablehlo'
  folder = save(SPECS['resnet'])
  (tmp_path / 'a.stablehlo.json').touch()
  there = sorted(tmp_path.iterdir())
  for args, fault in (
    ((), 'NETWORK, --to, --out'),
    ((folder, '--to=onnx'), 'required: --out'),
    ((folder, '--to=onix', f'--out={onnx}'), "perhaps 'onnx'; choose one of"),
    ((folder, '--to=onnx', f'--out={weights}'), 'whose files end in .onnx'),
    (('none', '--to=stablehlo', f'--out={program}'), 'no readable network in'),
    (
      ('stargan-10-emoji-portraits', '--to=stablehlo', f'--out={program}'),
      "of the family 'stargan', which cannot be exported",
    ),
    (
      (folder, '--to=torch', f'--out={weights}', '--preprocess'),
      'torch holds weights, which normalise nothing',
    ),
    (
      (folder, '--to=stablehlo', f'--out={taken}'),
      'a.stablehlo.json is there already',
    ),
    (
      (folder, '--to=stablehlo', f'--out={taken}.json/net.stablehlo'),
      'cannot be written (',
    ),
  ):
    code, out, err = run(*args)
    assert (code, out) == (2, ''), args
    assert fault in err and err.count('\n') == 1, (args, err)
    assert sorted(tmp_path.iterdir()) == there


def test_what_texts_and_pytorch_do_not_share_is_told(save, tmp_path):
  from lit_jax.data.preprocess import TextPreprocess

  folder = save(VDCNN, TextPreprocess().facts(), 'fine_foods')
  with pytest.raises(UserError, match='torch takes resnet and resnext, and'):
    export.export(folder, 'torch', _path(tmp_path, 'torch'))
  path = _path(tmp_path, 'stablehlo')
  with pytest.raises(UserError, match='character ids, which are not norm'):
    export.export(folder, 'stablehlo', path, preprocess=True)


def test_a_network_that_does_not_say_its_normalisation_is_refused(
  save, tmp_path
):
  path = _path(tmp_path, 'stablehlo')
  for facts in (
    {'kind': 'as is'},
    {'kind': 'images'},
    {'kind': 'images', 'mean': [0.5], 'std': [0.5]},
  ):
    with pytest.raises(UserError, match='does not say what it must be fed'):
      export.export(save(SPECS['resnet'], facts), 'stablehlo', path)


def test_a_full_disk_leaves_nothing(save, tmp_path, monkeypatch):
  def full(*args):
    raise OSError(28, 'No space left on device')

  folder, path = save(SPECS['resnet']), _path(tmp_path, 'safetensors')
  replace = export.os.replace
  monkeypatch.setattr(
    export.os,
    'replace',
    lambda a, b: full() if b == path else replace(a, b),
  )
  with pytest.raises(UserError, match='No space left on device'):
    export.export(folder, 'safetensors', path)
  assert not path.parent.exists()
