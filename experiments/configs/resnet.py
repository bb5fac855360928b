"""ResNet-110 → ResNet-20 by LIT on CIFAR-10, with the paper's recipes.

  python -m experiments.cifar --config=experiments/configs/resnet.py \
      --workdir=runs/resnet --config.data_dir=DIR

Recipes: Koratana et al., appendix A.1 (teacher and scratch 200 epochs; KD 250;
LIT 175 and 75 of fine-tuning). Expected accuracy of the student, as published:
scratch below KD, KD 92.75 %, LIT 93.25 % (mean of three runs). Cost in
multiply-accumulates: an image costs the teacher 253 M forward and the student
41 M, so the teacher's 200 epochs are 7.6e15 and the LIT run's 250 epochs about
5.6e15: days on two CPU cores, for which `epochs_scale=0.05` or a smaller pair
(`teacher.depth=20 student.depth=8`) is meant; GPU times are not measured yet.

Any key can be set by a flag: --config.student.depth=32 --config.lit.beta=0.5.
Several methods in one run share the teacher: --config.method=scratch,kd,lit.
"""

from ml_collections import ConfigDict

# Phases that compare IRs, which a recipe trains alike.
COMPARE_IRS = 'lit', 'one_ir', 'fitnets', 'several_irs', 'hint', 'annealed'


def phase(**settings) -> ConfigDict:
  """A phase; every key that a phase can have, and its usual value."""
  config = ConfigDict()
  config.epochs = 200
  config.learning_rate = 0.1
  config.optimizer = 'sgd'  # or 'adam'
  config.schedule = 'steps'  # or 'cosine', 'linear'
  config.milestones = (100, 150)  # epochs
  config.decay = 0.1  # at each milestone
  config.warmup_epochs = 0.0
  config.alpha = 1.0  # weight of the hard labels
  config.beta = 1.0  # weight of KD against the IR losses
  config.temperature = 6.0
  config.ir_loss = 'l2'  # or 'l1', 'smooth_l1'
  config.blocks = 'all'  # which are compared, such as '1' or '0,2'; '' none
  config.teacher_input = True  # compared blocks are fed by the teacher
  # The student's own IR takes the place of the teacher's over the phase.
  config.anneal_input = False
  config.running_statistics = 'student'  # or 'both'
  config.output_loss = 'kd'  # or 'l2', for tasks whose outputs are no logits
  config.copy = ''  # parts taken from the teacher first, such as 'stem,head'
  config.frozen = ''  # parts that do not learn
  config.sparsity = 0.0  # share of the weights that are zero from its begin on
  config.prune_by = 'global'  # or 'layer': the same share of each kernel
  config.update(settings)
  return config


def lit(**settings) -> ConfigDict:
  """The LIT phase: all blocks, fed by the teacher; stem and head copied."""
  defaults = dict(
    epochs=175,
    milestones=(60, 100, 125),
    alpha=0.95,
    beta=0.75,
    copy='stem,head',
    frozen='stem,head',
  )
  return phase(**(defaults | settings))


def get_config() -> ConfigDict:
  """The whole recipe."""
  config = ConfigDict()
  # What the networks are trained for: a name in lit_jax.tasks, or the import
  # path of a task of your own, 'my_package.tasks:Regress'.
  config.task = 'classify'
  config.dataset = 'cifar10'  # cifar100, fashion_mnist, fashion_mnist_mini
  config.data_dir = ''  # where its files are; '' is ~/.cache/lit_jax
  # Training examples held out, such as 5000; train the teacher likewise.
  config.validation = 0
  # The split that every row is of; 'validation' drops the test split at once.
  config.score_on = 'test'
  config.train_examples = 0  # of what is left, drawn alike everywhere; 0 is all
  # Keys of `methods`, separated by commas; '' trains the teacher alone.
  config.method = 'lit'
  # Methods whose student is as deep as the teacher, separated by commas.
  config.full_depth = ''
  config.seed = 0
  # Depths of students between teacher and student, such as '44,32': each then
  # teaches the next, and the first is taught by the teacher.
  config.sequence = ''
  config.data_seed = -1  # of data order and augmentation; -1 is the seed
  # Several students in one program, such as seed '0,1,2' or beta '0.25,0.5':
  # every combination of what is given here, by every method.
  config.population = ConfigDict(
    dict(seed='', alpha='', beta='', temperature='')
  )
  config.precision = 'fp32'  # or 'bf16', 'fp16'
  config.deterministic = False  # True has a GPU repeat every bit, slower
  config.batch_size = 32
  # Of the whole batch, on any number of devices; False takes each device's own
  # part, which differs by their number and has none wait at every batch norm.
  config.sync_batch_norm = True
  config.devices = 0  # of a process; 0: as many as get these examples or more
  config.examples_per_device = 16  # of CPU cores, each a device
  config.examples_per_gpu = 128  # modelled, docs/scaling.md
  # Times that an epoch shows each training example, for small data sets.
  config.repeats = 1
  config.crop = True  # shift training images by up to 4 pixels
  config.momentum = 0.9  # of 'sgd'
  config.weight_decay = 1e-4  # of 'sgd'
  config.adam_betas = (0.9, 0.999)
  # Told of the metrics beside TensorBoard: 'wandb', 'mlflow', or both.
  config.tracker = ''
  config.select = 'last'  # or 'best', on the validation split
  config.steps_per_call = 8  # one call of the program; 64 on a GPU
  # Each block of a student that learned from the teacher's, tried in the
  # teacher: what that costs tells which block needs depth.
  config.stitch = True
  config.epochs_scale = 1.0  # times all epochs and milestones, for short runs

  config.teacher = ConfigDict(
    dict(
      family='resnet',
      depth=110,
      units=(),
      shortcut='pad',
      inner=(),  # as the student's
      checkpoint='',  # folder of a trained network, or 'embedded'
    )
  )
  config.student = ConfigDict(
    dict(
      family='resnet',
      depth=20,
      units=(),  # of each block, such as (18,3,3), instead of a depth
      shortcut='pad',
      # Filters of each unit's first convolution, by block, such as (8,16,32).
      inner=(),
      # What students begin as, named as a teacher's; with `inner` its largest
      # filters. '' draws their values.
      checkpoint='',
    )
  )

  # Phases, by name; the teacher's own training is one of them.
  config.train_teacher = phase()
  config.scratch = phase()
  config.kd = phase(epochs=250, milestones=(100, 175), alpha=0.95)
  config.lit = lit()
  config.finetune = phase(
    epochs=75, learning_rate=0.01, milestones=(35, 55), alpha=0.95
  )
  # Table 3: the hint is the second block.
  config.one_ir = lit(blocks='1')
  config.fitnets = lit(blocks='1', teacher_input=False)
  config.several_irs = lit(teacher_input=False)
  # FitNets as first published: the hint alone, then KD. What lies behind the
  # hint gets no gradient, and must not shrink by weight decay alone.
  config.hint = lit(
    blocks='1', teacher_input=False, beta=0.0, frozen='stem,head,blocks_2'
  )
  # Blocks that grow used to what the blocks before them make.
  config.annealed = lit(anneal_input=True)
  # Han et al. 2015: half of the weights go, and the others learn again at a
  # tenth of the rate.
  config.prune = phase(
    epochs=75, learning_rate=0.01, milestones=(35, 55), sparsity=0.5
  )

  # Methods, as phases one after another.
  config.methods = ConfigDict(
    dict(
      scratch='scratch',
      kd='kd',
      lit='lit,finetune',
      one_ir='one_ir,finetune',
      fitnets='fitnets,finetune',
      several_irs='several_irs,finetune',
      fitnets_two_stage='hint,finetune',
      annealed='annealed,finetune',
      pruned='prune',  # of a student.checkpoint
    )
  )
  return config
