# SPDX-License-Identifier: Apache-2.0
"""tools/gpu_check.py without a GPU: a made-up device, and shell commands in the place of its steps."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.runtime.helpers import ROOT, load_tool

FACTS = {
    'gpu': 'NVIDIA H000 80GB',
    'capability': '9.0',
    'torch': '2.11.0',
    'date': '2026-11-27',
    'CUDA sources': '0123',
}
FOLDER = 'benchmarks/NVIDIA-H000-80GB'
SCRIPT = ROOT / 'tools' / 'gpu_check.py'


def shell(text: str) -> list[str]:
    return ['sh', '-c', text]


@pytest.fixture
def check(tmp_path, monkeypatch):
    """The tool on a made-up GPU, in an empty folder; its steps say 'ok' and pass."""
    tool = load_tool('gpu_check')
    monkeypatch.setattr(tool, 'ROOT', tmp_path)
    monkeypatch.setattr(tool, 'facts', lambda: dict(FACTS))
    steps = {step: shell('echo ok') for step in tool.STEPS}
    monkeypatch.setattr(tool, 'commands', lambda out, sources: steps)
    for name in ('KEEP_LIBRARIES', 'GPU_KIT'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '')
    signals = signal.getsignal(signal.SIGTERM)
    yield tool, steps
    signal.signal(signal.SIGTERM, signals)


def rows(folder) -> dict[str, dict]:
    content = json.loads((folder / FOLDER / 'check.json').read_text())
    return {row['step']: row for row in content['steps']}


def test_every_step_is_noted_and_the_entry_to_add_is_printed(check, tmp_path, capsys):
    tool, _ = check
    assert tool.main([]) == 0
    assert list(rows(tmp_path)) == list(tool.STEPS)
    assert {row['result'] for row in rows(tmp_path).values()} == {'passed'}
    entry = "('9.0', '0123'),  # NVIDIA H000 80GB, torch 2.11.0, 2026-11-27"
    assert entry in capsys.readouterr().out.splitlines()[-1]
    table = (tmp_path / FOLDER / 'check.md').read_text()
    assert entry in table and '| tests | passed | 0 | ok |' in table


def test_check_json_is_there_while_a_step_runs(check, tmp_path):
    """Each step looks at what is written so far: all before it, and itself as unfinished."""
    tool, steps = check
    for step in tool.STEPS:
        steps[step] = shell(f'cp {FOLDER}/check.json seen-{step}.json')
    assert tool.main([]) == 0
    for i, step in enumerate(tool.STEPS):
        seen = json.loads((tmp_path / f'seen-{step}.json').read_text())
        assert seen['gpu'] == 'NVIDIA H000 80GB'
        results = {row['step']: row['result'] for row in seen['steps']}
        assert list(results) == [s for s in tool.STEPS if s in results]
        assert results.pop(step) == 'unfinished'
        before = [s for s in tool.STEPS[:i] if s not in tool.AT_ONCE or step not in tool.AT_ONCE]
        assert all(results[s] == 'passed' for s in before)
        assert not set(results) - set(before) or step in tool.AT_ONCE


def test_steps_that_only_have_to_be_right_run_at_the_same_time(check, tmp_path, capsys):
    """Each waits until all have begun."""
    tool, steps = check
    begun = ' '.join(f'-a -e begun-{step}' for step in tool.AT_ONCE)
    for step in tool.AT_ONCE:
        steps[step] = shell(f'touch begun-{step}; until [ 1 = 1 {begun} ]; do sleep 0.02; done; echo ok')
    assert tool.main(['--limit', '20']) == 0
    assert {row['result'] for row in rows(tmp_path).values()} == {'passed'}
    assert 'racecheck: ok' in capsys.readouterr().out.splitlines()


def test_a_failed_step_ends_nothing_and_proves_nothing(check, tmp_path, capsys):
    tool, steps = check
    steps['memcheck'] = shell('echo "2 | 3 errors"; exit 9')
    assert tool.main([]) == 1
    assert rows(tmp_path)['memcheck'] == dict(
        step='memcheck', result='failed', seconds=0, last_line='2 | 3 errors'
    )
    assert rows(tmp_path)['benchmark-module']['result'] == 'passed'
    assert 'Proven' not in capsys.readouterr().out
    assert r'| memcheck | failed | 0 | 2 \| 3 errors |' in (tmp_path / FOLDER / 'check.md').read_text()


def test_a_late_step_is_ended_with_all_that_it_started(check, tmp_path):
    tool, steps = check
    steps['tests'] = shell('echo started; sleep 60 & sleep 60')
    start = time.monotonic()
    assert tool.main(['--limit', '0.5', 'load', 'tests']) == 1
    assert time.monotonic() - start < 20
    assert rows(tmp_path)['tests']['result'] == 'timed out'
    assert rows(tmp_path)['tests']['last_line'] == 'after 0.5 s: started'


def test_a_missing_peer_is_said_and_fails_nothing(check, tmp_path):
    tool, steps = check
    steps['peer'] = shell('echo "No module named mmcv" >&2; exit 1')
    assert tool.main(['benchmark-op']) == 0
    assert list(rows(tmp_path)) == ['peer', 'benchmark-op']
    said = "mmcv's operator is missing, nothing is measured against it: No module named mmcv"
    assert f'| peer | not run | 0 | {said} |' in (tmp_path / FOLDER / 'check.md').read_text()


def test_steps_of_an_earlier_run_stay_while_nothing_has_changed(check, tmp_path, monkeypatch):
    tool, steps = check
    tool.main(['load', 'tests'])
    steps['tests'] = shell('exit 1')
    tool.main(['tests'])
    assert {s: row['result'] for s, row in rows(tmp_path).items()} == dict(load='passed', tests='failed')
    monkeypatch.setattr(tool, 'facts', lambda: FACTS | {'CUDA sources': '4567'})
    tool.main(['environment'])
    assert list(rows(tmp_path)) == ['environment']


def test_no_sanitizer_and_kept_libraries(check, tmp_path, monkeypatch):
    tool, steps = check
    monkeypatch.setenv('KEEP_LIBRARIES', '1')
    steps['build'] = shell('exit 1')
    steps['racecheck'] = ['no-such-sanitizer']
    assert tool.main(['build', 'racecheck']) == 0
    assert {row['result'] for row in rows(tmp_path).values()} == {'not run'}
    assert rows(tmp_path)['racecheck']['last_line'] == 'no-such-sanitizer is not found'


def test_stopped_from_outside(tmp_path):
    """As `timeout` does it: the step is ended too, and check.json says where it stopped."""
    code = f"""if True:
        import sys
        from pathlib import Path
        from tests.runtime.helpers import load_tool
        tool = load_tool('gpu_check')
        tool.ROOT, tool.facts = Path({str(tmp_path)!r}), lambda: {FACTS}
        tool.commands = lambda out, sources: dict(load=['echo', 'ok'], tests=['sleep', '30'])
        sys.exit(tool.main(['load', 'tests']))"""
    process = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith('== tests'):
            break
    while 'tests' not in rows(tmp_path):
        time.sleep(0.01)
    process.terminate()
    assert process.wait(20) == 143
    assert {s: row['result'] for s, row in rows(tmp_path).items()} == dict(load='passed', tests='unfinished')


def test_the_driver_is_asked_of_nvidia_smi(check, tmp_path, monkeypatch):
    tool, _ = check
    smi = tmp_path / 'nvidia-smi'
    smi.write_text('#!/bin/sh\necho "580.159.04"\necho "580.159.04"\n')
    smi.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:/usr/bin:/bin')
    assert tool.one_line(['nvidia-smi', '--query-gpu=driver_version']) == '580.159.04'
    smi.unlink()
    assert tool.one_line(['nvidia-smi', '--query-gpu=driver_version']) == 'unknown'


def test_the_kit_builds_the_peer(tmp_path, monkeypatch):
    tool = load_tool('gpu_check')
    monkeypatch.setenv('GPU_KIT', str(tmp_path))
    (tmp_path / 'mmcv-2.1.0.tar.gz').touch()
    *_, script, sdist, out = tool.commands(tmp_path, '')['peer']
    assert (script, sdist, out) == (f'{tmp_path}/peer.py', f'{tmp_path}/mmcv-2.1.0.tar.gz', str(tool.PEER))
    monkeypatch.setattr(tool, 'PEER', tmp_path)
    assert str(tmp_path) not in tool.environment()['PYTHONPATH'].split(':')
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / '_ext.so').touch()
    assert str(tmp_path) in tool.environment()['PYTHONPATH'].split(':')


@pytest.mark.parametrize(
    'installed, options', [(('xdist', 'pytest_timeout'), {'-n', '--timeout'}), ((), set())]
)
def test_pytest_plugins_are_used_where_they_are(monkeypatch, installed, options):
    tool = load_tool('gpu_check')
    monkeypatch.setattr(tool.importlib.util, 'find_spec', lambda name: name in installed)
    assert options == {option for option in tool.plugin_options() if option.startswith('-')}
    assert set(tool.plugin_options()) <= set(tool.commands(tool.Path(), '')['tests'])


def test_dry_run_names_files_that_are_there():
    command = ['bash', ROOT / 'tools' / 'gpu_check.sh', '--dry-run']
    done = subprocess.run(
        command, env={'PATH': '/usr/bin:/bin', 'PYTHON': sys.executable}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    tool = load_tool('gpu_check')
    lines = [line for line in done.stdout.splitlines() if line.startswith('== ')]
    assert [line[3:].split(':')[0] for line in lines] == list(tool.STEPS)
    named = [word for line in lines for word in line.split() if word.startswith(('tests/', 'tools/'))]
    assert len(named) >= 6 and all((ROOT / name).is_file() for name in named)


def test_an_unknown_step_and_no_gpu(check, monkeypatch, capsys):
    tool, _ = check
    with pytest.raises(SystemExit):
        tool.main(['test'])
    assert "unknown step 'test'; known: build environment load" in capsys.readouterr().err
    monkeypatch.setattr(tool, 'facts', lambda: None)
    assert tool.main(['tests']) == 1
    assert 'torch sees no GPU here' in capsys.readouterr().err
