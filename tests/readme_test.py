"""What the README shows works as it stands there."""

import json
import pathlib
import re

README = pathlib.Path(__file__).parent.parent / 'README.md'


def test_own_network_example_runs(tmp_path, monkeypatch):
  (code,) = re.findall(r'```python\n(.*?)```', README.read_text(), re.DOTALL)
  monkeypatch.chdir(tmp_path)
  exec(compile(code, 'README.md', 'exec'), {'__name__': 'readme'})
  results = json.loads((tmp_path / 'runs/mine/results.json').read_text())
  assert [row['method'] for row in results['rows']] == ['teacher', 'lit']
  # Stem, two blocks and head: 1 + 4 + 4 + 1 and 1 + 1 + 1 + 1 layers.
  assert [row['depth'] for row in results['rows']] == [10, 4]
  assert all(0 <= row['accuracy'] <= 1 for row in results['rows'])


def test_every_configuration_that_is_named_exists():
  root = README.parent
  named = set()
  for path in (README, root / 'Makefile', *(root / 'docs').glob('*.md')):
    named |= set(re.findall(r'experiments/configs/\w+\.py', path.read_text()))
  assert len(named) >= 5
  for config in named:
    assert (root / config).is_file(), config
