"""Translation: StarGAN's generator, and LIT on it.

Choi et al. 2018, with WGAN-GP (Gulrajani et al. 2017). Two networks learn: the
'student' is the generator G, from an image x and a target label t to an image;
the 'discriminator' tells how real an image is, D, and its attributes, A.

    L_D = mean D(G(x, t)) − mean D(x) + λ_gp·P + λ_cls·C(A(x), own)
    P   = mean (‖∇D(x̂)‖ − 1)²,  x̂ = m·x + (1 − m)·G(x, t),  m uniform in [0, 1]
    L_G = −mean D(G(x, t)) + λ_cls·C(A(G(x, t)), t)
          + λ_rec·mean |x − G(G(x, t), own)|

Target labels are a permutation of the batch's own. L_G is the hard term of
Eq. 2; it is computed in every n_critic-th step, after the step of L_D. An
objective without a hard term needs no discriminator: the generator learns in
every step from what the teacher does.
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from lit_jax import blocks
from lit_jax.blocks import BlockNet, infer
from lit_jax.data.dataset import Dataset, Split
from lit_jax.data.preprocess import Preprocess
from lit_jax.errors import UserError, number
from lit_jax.models.stargan import Discriminator
from lit_jax.objectives import lit_loss
from lit_jax.report import Column
from lit_jax.tasks import judging
from lit_jax.tasks.attributes import Attributes
from lit_jax.training import evaluation, steps
from lit_jax.training.state import STUDENT, Learners, copy_parts
from lit_jax.training.task import Evaluation, Selection, Sheet, Task

DISCRIMINATOR = 'discriminator'
# Under the root of the gradient's norm, which has no gradient at 0.
_EPSILON = 1e-12
# Rows of a sheet of translations.
_ROWS = 8


@dataclasses.dataclass(frozen=True)
class Translate(Task):
  """The task of giving images other attributes; see `training.task.Task`.

  Attributes:
    attributes: their names, in the order of the labels.
    exclusive: groups of their indices of which at most one holds at a time.
    judges: what scores translations.
    targets_known: whether the data have the true image of a translation.
    discriminator_width: channels of the discriminator's first convolution.
    n_critic: steps of the discriminator for one of the generator.
    gradient_penalty: λ_gp.
    classification: λ_cls.
    reconstruction: λ_rec.
  """

  attributes: tuple[str, ...]
  exclusive: tuple[tuple[int, ...], ...] = ()
  judges: tuple[judging.Judge, ...] = ()
  targets_known: bool = False
  discriminator_width: int = 64
  n_critic: int = 5
  gradient_penalty: float = 10.0
  classification: float = 1.0
  reconstruction: float = 10.0

  output_loss = 'l2'
  loss_name = 'reconstruction error'
  learners = (STUDENT, DISCRIMINATOR)

  @classmethod
  def of(
    cls,
    dataset: Dataset,
    scores: str = 'attributes',
    inception: str = '',
    inception_sha256: str = '',
    discriminator_width: int = 64,
    n_critic: int = 5,
    gradient_penalty: float = 10.0,
    classification: float = 1.0,
    reconstruction: float = 10.0,
  ) -> 'Translate':
    """The task on these data.

    Args:
      dataset: its class names are the attributes.
      scores: names in judging.JUDGES, separated by commas.
      inception: file of InceptionV3's weights, for the scores that need them.
      inception_sha256: of that file, '' where it is not known.
      discriminator_width: see the attributes, as all that follow.

    Raises:
      UserError: an unknown score, weights that are missing or not asked for,
        or a number out of range.
    """
    # Programs count in int32.
    if not all(1 <= n < 2**31 for n in (n_critic, discriminator_width)):
      raise UserError(
        f'n_critic is {n_critic} and discriminator_width '
        f'{discriminator_width}; at least 1 each, and below 2^31'
      )
    weights = {
      'gradient_penalty': gradient_penalty,
      'classification': classification,
      'reconstruction': reconstruction,
    }
    for name, value in weights.items():
      number(
        name, value, 'it must be at least 0 and finite', lambda own: own >= 0
      )
    return cls(
      attributes=dataset.class_names,
      exclusive=dataset.exclusive,
      judges=judging.of(
        scores,
        inception,
        inception_sha256,
        dataset.splits[dataset.scored].examples,
      ),
      targets_known=dataset.identities,
      discriminator_width=discriminator_width,
      n_critic=n_critic,
      **weights,
    )

  @property
  def columns(self) -> tuple[Column, ...]:
    pixels = (
      Column(
        'l1', 'L1', 'number', optional=True,
        note='L1 and PSNR compare a translation with the true image: the mean '
        'absolute difference of pixels from 0 to 255, and decibels.',
      ),
      Column('psnr', 'PSNR', 'number', optional=True, below=True),
    ) if self.targets_known else ()  # fmt: skip
    return (*(c for judge in self.judges for c in judge.columns), *pixels)

  @property
  def selects(self) -> Selection:
    if self.targets_known:
      return Selection('l1', largest=False)
    return self.judges[0].selects if self.judges else Selection('loss', False)

  def network_options(self, dataset: Dataset) -> dict[str, Any]:
    size = dataset.splits['train'].inputs['image'].shape[1]
    return {'attributes': len(self.attributes), 'image_size': size}

  def check(self, dataset: Dataset, net: BlockNet) -> None:
    example = blocks.example(net)
    size = tuple(example['image'].shape[1:])
    output = blocks.cut_shapes(net)['head']
    if output != size:
      raise UserError(
        f"a generator's output has the shape {output}, and the images of "
        f'{dataset.name} have {size}; make the two agree'
      )
    for name, split in dataset.splits.items():
      label = np.asarray(split.inputs['label'][:])
      if not np.isin(label, (0, 1)).all():
        raise UserError(
          f'{dataset.name}, split {name}: labels are 0 and 1, one of each '
          f'attribute; they go from {label.min()} to {label.max()}'
        )

  def fresh(self, student: BlockNet, key: jax.Array) -> Learners:
    generator_key, key = jax.random.split(key)
    image = blocks.example(student)['image']
    return {
      STUDENT: blocks.init(student, generator_key),
      DISCRIMINATOR: blocks.draw(self._discriminator, key, image),
    }

  def updates_every(self, learner, objective) -> int:
    alternates = learner == STUDENT and objective.computes('hard')
    return self.n_critic if alternates else 1

  def judge(self, dataset: Dataset) -> tuple[Task, Dataset] | None:
    if not any(judge.is_trained for judge in self.judges):
      return None
    return Attributes(self.attributes), judging.images_alone(dataset)

  def judged_by(self, judge, row) -> 'Translate':
    found = tuple(own.trained(judge, row) for own in self.judges)
    return dataclasses.replace(self, judges=found)

  def begin(self, learners, teacher, objective, copy) -> Learners:
    teacher = teacher or {}
    if DISCRIMINATOR in copy and DISCRIMINATOR not in teacher:
      raise UserError(
        'the teacher comes without its discriminator, which cannot be copied; '
        'train the teacher by this task, or leave copy empty'
      )
    parts = tuple(part for part in copy if part != DISCRIMINATOR)
    source = teacher.get(STUDENT, {})
    begun = {STUDENT: copy_parts(source, learners[STUDENT], parts)}
    if objective.computes('hard'):
      theirs = teacher if DISCRIMINATOR in copy else learners
      begun[DISCRIMINATOR] = theirs[DISCRIMINATOR]
    return begun

  # The step.

  def prepare(self, plan, objective, teacher, superbatch, step, key):
    """Leaves [C, n, …]: images, both labels, m, what the teacher puts out."""
    own = steps.augmented(plan, superbatch.inputs, step, key)
    targets = own | {
      'label': _drawn(plan, own['label'], step, key, 'targets', _permuted)
    }
    mix = None
    if objective.computes('hard'):
      mix = _drawn(plan, own['label'], step, key, 'mix', _uniform)
    outputs = steps.teacher_outputs(plan, objective, teacher, targets)
    return own, targets['label'], mix, outputs

  def step(self, plan, state, step, objective, batch):
    own, target, mix, outputs = batch
    x = plan.preprocess.normalize(own)
    asked = plan.preprocess.normalize(own | {'label': target})
    alternates = objective.computes('hard')

    def generator(state):
      def loss(params):
        return self._generator_loss(
          plan, state, objective, params, x, asked, outputs, step
        )

      return steps.update(plan, state, loss)

    if not alternates:
      return generator(state)

    def critic_loss(params):
      return self._critic_loss(plan, state, params, x, asked, mix)

    state, metrics = steps.update(plan, state, critic_loss, DISCRIMINATOR)

    if self.n_critic == 1:
      state, found = generator(state)
    else:
      # A loop of one turn or none, for a condition would copy the state.
      turns = ((step + 1) % self.n_critic == 0).astype(jnp.int32)
      shapes = jax.eval_shape(generator, state)[1]
      none = jax.tree.map(lambda m: jnp.full((), jnp.nan, m.dtype), shapes)
      state, found = lax.fori_loop(
        0, turns, lambda _, carry: generator(carry[0]), (state, none)
      )
    return state, _joined(metrics, found)

  def _critic_loss(self, plan, state, params, x, asked, mix):
    """L_D of the discriminator's parameters."""
    real = x['image']
    fake = _generated(plan, state.student.variables, asked)
    fake, dtype = lax.stop_gradient(fake), _computes_in(plan.student)
    on_real, logits = self._judged(params, real.astype(dtype))
    on_fake, _ = self._judged(params, fake.astype(dtype))
    terms = {
      'critic/real': on_real.mean(),
      'critic/fake': on_fake.mean(),
      'critic/penalty': self._penalty(params, real, fake, mix),
      'critic/attributes': self._wrong(logits, x['label']),
    }
    loss = (
      terms['critic/fake']
      - terms['critic/real']
      + self.gradient_penalty * terms['critic/penalty']
      + self.classification * terms['critic/attributes']
    )
    return loss, ({}, terms | {'loss': loss})

  def _penalty(self, params, real, fake, mix):
    """P, in float32 whatever the precision."""
    m = mix[:, None, None, None]
    mixed = m * real + (1 - m) * fake

    # Summed over the patches; images have nothing to do with each other.
    def realness(images):
      return self._judged(params, images)[0].sum()

    slopes = jax.grad(realness)(mixed)
    norms = jnp.sqrt(jnp.square(slopes).sum((1, 2, 3)) + _EPSILON)
    return jnp.square(norms - 1).mean()

  def _generator_loss(
    self, plan, state, objective, params, x, asked, outputs, step
  ):
    """Eq. 1, of which L_G is the hard term."""
    variables = {
      'params': params, 'batch_stats': state.student.batch_stats
    }  # fmt: skip
    critic = state.learners.get(DISCRIMINATOR)

    def adversarial(fake):
      dtype = _computes_in(plan.student)
      realness, logits = self._judged(critic.params, fake.astype(dtype))
      back = _generated(plan, variables, {**x, 'image': fake})
      terms = {
        'generator/fake': realness.mean(),
        'generator/attributes': self._wrong(logits, asked['label']),
        'generator/reconstruction': jnp.abs(x['image'] - back).mean(),
      }
      loss = (
        -terms['generator/fake']
        + self.classification * terms['generator/attributes']
        + self.reconstruction * terms['generator/reconstruction']
      )
      return loss, terms

    return lit_loss(
      objective, plan.student, variables, asked, None, outputs, plan.learning,
      adversarial, 'stem' in plan.shared, plan.teacher_share(step),
    )  # fmt: skip

  @property
  def _discriminator(self):
    return Discriminator(len(self.attributes), self.discriminator_width)

  def _judged(self, params, images) -> Any:
    return self._discriminator.apply({'params': params}, images)

  @property
  def _one_domain(self):
    """Whether an image is of exactly one of all domains."""
    return self.exclusive == (tuple(range(len(self.attributes))),)

  def _wrong(self, logits, label):
    """C: cross-entropy, of attributes summed; mean over the batch."""
    if self._one_domain:
      return optax.softmax_cross_entropy(logits, label).mean()
    return optax.sigmoid_binary_cross_entropy(logits, label).sum(-1).mean()

  # Judging.

  def evaluator(
    self, student: BlockNet, preprocess: Preprocess, split: Split
  ) -> Callable[[Learners], Evaluation]:
    label = np.asarray(split.inputs['label'][:])
    targets = asked_labels(label, self.exclusive)
    truths = true_images(split, targets)
    own = split.inputs['image']
    asked = Split(split.inputs, targets)
    translated = evaluation.outputs(translation_program(student, preprocess))

    def evaluate(learners: Learners) -> Evaluation:
      parts = list(translated(asked, learners[STUDENT]))
      fake = np.concatenate([part['images'] for part in parts])
      error = np.concatenate([part['reconstruction'] for part in parts])
      numbers = {'loss': float(error.mean(dtype=np.float64))}
      shown = judging.Translations(own, label, fake, targets, truths)
      for judge in self.judges:
        numbers |= judge.numbers(shown)
      numbers |= judging.pixel_numbers(shown)
      line = '  '.join(f'{name} {value:.4g}' for name, value in numbers.items())
      sheet = self._sheet(split, fake, truths)
      return Evaluation(numbers, line, {}, {'translations': sheet})

    return evaluate

  def _sheet(self, split, fake, truths) -> Sheet:
    """The first image of each person, or of all, and its translations."""
    rows = np.arange(len(fake))
    if truths is not None:
      rows = np.unique(np.asarray(split.labels[:]), return_index=True)[1]
    rows = np.sort(rows)[:_ROWS]
    real = split.inputs['image']
    given = real[rows][:, None]
    truth = None
    if truths is not None and (truths[rows] >= 0).all():
      truth = np.concatenate([given, real[truths[rows]]], 1)
    images = np.concatenate([given, fake[rows]], 1)
    return Sheet(images, ('Input', *self.attributes), truth)


def _generated(plan, variables, inputs) -> Any:
  """The student's images, as it learns."""
  (images, _), _ = plan.student.apply(
    variables, inputs, train=plan.learning, mutable=['batch_stats']
  )
  return images


def _computes_in(net):
  """The dtype of a network's IRs, in which the discriminator computes too."""
  _, irs = jax.eval_shape(net.apply, blocks.shapes(net), blocks.example(net))
  return irs[-1].dtype


def _joined(critic, generator):
  """The metrics of both updates; of fp16, of whichever did worse."""
  joined = critic | generator
  joined |= {'loss': critic['loss'], 'generator/loss': generator['loss']}
  if 'skipped' in critic:
    worse = {'skipped': jnp.fmax, 'loss_scale': jnp.fmin}
    joined |= {k: f(critic[k], generator[k]) for k, f in worse.items()}
  return joined


def _drawn(plan, labels, step, key, name, draw):
  """draw(key, labels of the whole batch) for each of C batches, [C, n, …].

  Of many devices each takes its own rows.
  """
  slots, count = labels.shape[:2]
  if plan.axis_name is not None:
    labels = lax.all_gather(labels, plan.axis_name, axis=1, tiled=True)
  number = zlib.crc32(name.encode())

  def one(i, labels):
    step_key = jax.random.fold_in(key, step + i)
    return draw(jax.random.fold_in(step_key, number), labels)

  drawn = jax.vmap(one)(jnp.arange(slots), labels)
  if plan.axis_name is None:
    return drawn
  first = lax.axis_index(plan.axis_name) * count
  return lax.dynamic_slice_in_dim(drawn, first, count, axis=1)


def _permuted(key, labels):
  return jax.random.permutation(key, labels)


def _uniform(key, labels):
  return jax.random.uniform(key, labels.shape[:1])


def asked_labels(
  label: np.ndarray, exclusive: tuple[tuple[int, ...], ...]
) -> np.ndarray:
  """The label of each translation: one for every attribute.

  An attribute of a group is set, and the others of the group are not; any
  other attribute is turned round.

  Args:
    label: [N, c] of 0 and 1.
    exclusive: groups of which at most one holds.

  Returns:
    [N, c, c]: of each image, for each attribute, a label.
  """
  count = label.shape[1]
  asked = np.repeat(label[:, None], count, 1)
  for i in range(count):
    group = next((g for g in exclusive if i in g), None)
    if group is None:
      asked[:, i, i] = 1 - label[:, i]
    else:
      asked[:, i, list(group)] = 0
      asked[:, i, i] = 1
  return asked


def true_images(split: Split, asked: np.ndarray) -> np.ndarray | None:
  """Which image of the split shows what a translation should.

  Args:
    split: whose labels [N] say who is who.
    asked: [N, T, c].

  Returns:
    Indices [N, T], -1 where there is no such image; None without labels.
  """
  if split.labels is None:
    return None
  people = np.asarray(split.labels[:])
  own = np.asarray(split.inputs['label'][:])
  found = {
    (person, label.tobytes()): i
    for i, (person, label) in enumerate(zip(people, own, strict=True))
  }
  return np.asarray(
    [
      [found.get((person, label.tobytes()), -1) for label in labels]
      for person, labels in zip(people, asked, strict=True)
    ]
  )


def translation_program(
  net: BlockNet, preprocess: Preprocess
) -> Callable[..., dict[str, jax.Array]]:
  """The pure program (variables, inputs, asked labels) → translations.

  Inputs are a batch of the split's, labels [n, T, c]. Returns 'images', uint8
  [n, T, h, w, 3], and 'reconstruction', float32 [n, T]: the mean absolute
  difference, in units of −1 to 1, of the image and what the generator makes
  of its translation to have it back.
  """

  def program(variables, inputs, asked):
    own = preprocess.normalize(inputs)

    def translate(label):
      read = preprocess.normalize(inputs | {'label': label})
      fake, _ = infer(net, variables, read)
      back, _ = infer(net, variables, own | {'image': fake})
      return {
        'images': jnp.round((jnp.clip(fake, -1, 1) + 1) * 127.5).astype(
          jnp.uint8
        ),
        'reconstruction': jnp.abs(own['image'] - back).mean((1, 2, 3)),
      }

    # One target after another, for the memory of one.
    out = lax.map(translate, jnp.moveaxis(asked, 1, 0))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), out)

  return program
