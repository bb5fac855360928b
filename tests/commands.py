"""What `lit-jax --help` has to list."""

COMMANDS = (
  'check', 'compress', 'summary', 'import', 'export', 'report', 'models',
  'data',
)  # fmt: skip


def assert_listed(text):
  for name in COMMANDS:
    assert f'\n    {name} ' in text
