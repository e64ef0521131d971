"""The commands that pages show: every tool takes its arguments, and what they name exists."""

import argparse
import re
import runpy
import shlex
from functools import cache

import pytest
from helpers import ROOT

PAGES = [
    ROOT / 'README.md',
    ROOT / 'CONTRIBUTING.md',
    *sorted((ROOT / 'docs').glob('*.md')),
    *sorted((ROOT / 'configs').glob('*/README.md')),
]
TOOLS = sorted(
    path
    for path in (ROOT / 'tools').glob('*.py')
    if 'def parse_args' in path.read_text(encoding='utf-8')
)
#: What is not ours to check: the shell's own, and programs whose arguments others define.
OTHERS = {'cd', 'done', 'export', 'for', 'git', 'pip', 'source'}
#: Scripts that a page has its reader write.
WRITTEN = {'make_pictures.py', 'forms.py'}


class Found(Exception):
    """A script's parser, at the moment when it was to read the command line."""


def commands(text):
    """Return the words of every command in the shell blocks of a page."""
    for block in re.findall(r'```(?:bash|shell|console)\n(.*?)```', text, re.DOTALL):
        for line in block.replace('\\\n', ' ').splitlines():
            words = shlex.split(line.replace('$KD/', ''), comments=True)
            while words and re.fullmatch(r'[A-Z_]+=\S*', words[0]):
                words.pop(0)
            if words:
                yield words


@cache
def parser_of(script):
    """Return the parser of a script, which does nothing else."""

    def stop(parser, *_):
        raise Found(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, 'parse_args', stop)
        patch.syspath_prepend(str(script.parent))
        with pytest.raises(Found) as found:
            runpy.run_path(str(script), run_name='__main__')
    return found.value.args[0]


def check(words):
    """Fail if a command could not be typed as it stands."""
    for word in words:
        # Of `--cfg-options` the value may be a path; work_dirs are what others have made.
        path = word.partition('=')[2] or word
        if re.match(r'(configs|tools|benchmarks|requirements|docs|tests)/[\w.]', path):
            assert (ROOT / path).exists(), path
    program, *arguments = words
    if program == 'torchrun':
        arguments = [word for word in arguments if not word.startswith('--nproc')]
        program = 'python'
    if program == 'python' and arguments[0] not in WRITTEN:
        parser_of(ROOT / arguments[0]).parse_args(arguments[1:])
    elif program == 'make':
        targets = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
        goals = [word for word in arguments if '=' not in word]
        goals = goals[2:] if goals[:1] == ['-C'] else goals
        assert goals and set(goals) <= set(targets)
    elif program == 'bash':
        assert arguments[0].endswith('.sh')
    elif program == 'mim':
        assert arguments[0] in ('train', 'test', 'run', 'install')
    else:
        assert program in {*OTHERS, 'python'}, f'what is {program!r}?'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_can_be_typed(page):
    for words in commands(page.read_text(encoding='utf-8')):
        check(words)


@pytest.mark.parametrize('tool', TOOLS, ids=lambda tool: tool.stem)
def test_the_help_of_a_tool_ends_with_an_example(tool):
    text = ' '.join(parser_of(tool).format_help().split())
    _, found, example = text.rpartition('example: ')
    assert found and example.startswith(f'python tools/{tool.name} ')
    check(shlex.split(example))


def test_what_a_command_gets_wrong_is_found():
    page = '```bash\npython tools/repeat.py configs/kd/kd_digits.py \\\n  --seeds 0 # 1\n```'
    (words,) = commands(page)
    assert words == ['python', 'tools/repeat.py', 'configs/kd/kd_digits.py', '--seeds', '0']
    for wrong in (
        'python tools/repeat.py configs/kd/kd_digits.py --seed 0 --nonsense',
        'python tools/repeat.py configs/kd/gone.py',
        'python tools/gone.py',
        'make nothing',
        'repeat configs/kd/kd_digits.py',
    ):
        with pytest.raises((AssertionError, FileNotFoundError, SystemExit)):
            check(wrong.split())
