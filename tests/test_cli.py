"""The command line that experiment mains share: parsing in this process, exit codes in processes of their own."""

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import cli
from experiments.__main__ import commands
from ptjax.config import UserError, to_json

ROOT = Path(__file__).parents[1]
MAINS = list(commands())

CONFIG = """
import chz
from ptjax.config import Config

@chz.chz
class Top(Config):
    steps: int = chz.field(default=10, doc="how many steps")

def get_config(steps: int = 10):
    return Top(steps=steps)
"""

MAIN = '''"""Demo: does what its flag says.

    python -m demo_main --config=demo_config.py --workdir=run
"""
import os, sys
from experiments import cli

FLAGS = {"--action": dict(default="print", help="what to do")}

def main(command):
    action, workdir = command.flags.action, command.workdir
    if action == "print": print(command.config.steps)
    if action == "bug": raise RuntimeError("a bug")
    if action == "user": cli.parse(["--nothing"], doc="")
    if action == "full": open("/dev/full", "w").write("x" * 100_000)
    if action == "nested":
        try: open("/dev/full", "w").write("x" * 100_000)
        except OSError as error: raise ValueError("while saving") from error
    if action == "denied": raise PermissionError(13, "Permission denied", str(workdir))
    if action == "missing": open("no such file")
    if action == "wait":
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        print("ready", flush=True); signal.pause()
    if action == "talk": print(*range(100_000), sep="\\n")

if __name__ == "__main__":
    cli.run(main, flags=FLAGS, doc=__doc__, uses_jax=False)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "demo_config.py").write_text(CONFIG)
    (tmp_path / "demo_main.py").write_text(MAIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    for name in ("PTJAX_DEBUG", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def demo(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return python("demo_main", "--config=demo_config.py", "--workdir=run", *arguments, **environment)


def parse(*argv: str, **options) -> cli.Command:
    flags = {"--dry-run": dict(action="store_true"), "--step": dict(type=int)}
    return cli.parse(list(argv), doc="Demo.", flags=flags, **options)


# Parsing.


def test_config_workdir_flags_and_overrides_in_any_order(folder):
    command = parse("steps=3", "--dry-run", "--config", "demo_config.py:steps=5", "--step=7", "--workdir=run/x")
    assert command.config.steps == 3
    assert command.workdir == Path("run/x")
    assert command.flags.dry_run and command.flags.step == 7
    assert parse("--config=demo_config.py:steps=5", "--workdir=w").config.steps == 5


def test_the_workdirs_own_config_is_the_default(folder):
    (folder / "run").mkdir()
    config = parse("--config=demo_config.py", "--workdir=w", "steps=4").config
    (folder / "run" / "config.json").write_text(to_json(config))
    assert parse("--workdir=run").config.steps == 4
    assert parse("--workdir=run", "steps=6").config.steps == 6
    assert parse("--workdir=run", "--config=demo_config.py").config.steps == 10


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--workdir=w"], ["--config=FILE", "config.json"]),
        (["--config=demo_config.py"], ["--workdir=DIR"]),
        (["--config=demo_config.py", "--workdir=w", "--dryrun"], ["--dryrun", "did you mean --dry-run"]),
        (["--config=demo_config.py", "--workdir=w", "--dry"], ["--dry", "did you mean --dry-run"]),
        (["--config=demo_config.py", "--workdir=w", "--learning-rate=3"], ["without dashes: learning_rate=..."]),
        (["--config=demo_config.py", "--workdir=w", "--step=x"], ["--step", "'x'"]),
        (["--config=demo_config.py", "--workdir=w", "--step"], ["--step"]),
        (["--config=demo_config.py", "--workdir=w", "stepz=3"], ["'stepz'", "'steps'"]),
        (["--config=demo_config.py", "--workdir=w", "run"], ["'run'", "key.path=value"]),
        (["--config=demo_confg.py", "--workdir=w"], ["demo_confg.py"]),
    ],
)
def test_mistakes_on_the_command_line(folder, argv, words):
    with pytest.raises(UserError) as error:
        parse(*argv)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_workdir_may_be_optional(folder):
    assert parse("--config=demo_config.py", workdir=False).workdir is None


def test_help_shows_the_flags_and_with_a_config_its_keys(folder, capsys):
    for argv, expected in ((["--help"], False), (["--help", "--config=demo_config.py", "steps=77"], True)):
        with pytest.raises(SystemExit) as exit:
            parse(*argv)
        text = capsys.readouterr().out
        assert exit.value.code == 0 and "Demo." in text and "--dry-run" in text and "--workdir" in text
        assert ("how many steps" in text and "77" in text) == expected


# Exit codes.


def test_done_is_0(folder):
    done = demo("steps=3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


@pytest.mark.parametrize(
    "action, words", [("user", "--nothing"), ("full", "no space left"), ("nested", "no space left"), ("denied", "run")]
)
def test_what_a_user_can_mend_is_2_with_one_message(folder, action, words):
    done = demo(f"--action={action}")
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("Error: ")


@pytest.mark.parametrize("action, words", [("bug", "RuntimeError: a bug"), ("missing", "FileNotFoundError")])
def test_an_error_of_ours_is_1_with_a_traceback(folder, action, words):
    done = demo(f"--action={action}")
    assert done.returncode == 1 and words in done.stderr and "Traceback" in done.stderr


def test_debug_shows_the_traceback_of_a_user_error(folder):
    done = demo("--action=user", PTJAX_DEBUG="1")
    assert done.returncode == 2 and "Traceback" in done.stderr


def test_control_c_is_130_with_one_line(folder):
    command = [sys.executable, "-m", "demo_main", "--config=demo_config.py", "--workdir=run", "--action=wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and stderr.strip() == "Interrupted."


def test_the_compilation_cache_can_be_moved_and_switched_off(folder):
    code = "from experiments import cli; cli.set_up_jax()\nimport jax; print(jax.config.jax_compilation_cache_dir)\n"
    run = lambda **environment: subprocess.run(  # noqa: E731
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    ).stdout.strip()
    assert run(XDG_CACHE_HOME=str(folder), PTJAX_COMPILATION_CACHE="") == str(folder / "ptjax" / "xla")
    assert run(PTJAX_COMPILATION_CACHE="elsewhere") == "elsewhere"
    assert run(PTJAX_COMPILATION_CACHE="off") == "None"
    assert run(JAX_COMPILATION_CACHE_DIR="mine") == "mine"


def test_a_second_start_compiles_nothing_and_steps_touch_no_new_memory(folder):
    """Programs of milliseconds count too; results and temporaries of a step lie where those of the step before lay."""
    code = (
        "import resource; from experiments import cli; cli.set_up_jax(); import jax, jax.numpy as jnp\n"
        "events = []; jax.monitoring.register_event_listener(lambda name, **_: events.append(name))\n"
        "step = jax.jit(lambda x: x[::-1] * 0.5 + x)\n"  # 64 MiB in and out
        "x = jnp.ones(1 << 24)\n"
        "for _ in range(10): x = jax.block_until_ready(step(x))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): x = jax.block_until_ready(step(x))\n"
        "faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(*(sum(name.endswith(kind) for name in events) for kind in ('cache_hits', 'cache_misses')), faults)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XLA_FLAGS", "JAX_P"))}
    environment |= {"PTJAX_COMPILATION_CACHE": str(folder / "xla"), "JAX_PLATFORMS": "cpu"}
    run = lambda: subprocess.run(  # noqa: E731
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    ).stdout.split()
    first, second = list(map(int, run())), list(map(int, run()))
    assert first[0] == 0 and first[1] > 0
    assert second[0] == first[1] and second[1] == 0
    if platform.libc_ver()[0] == "glibc":
        assert min(first[2], second[2]) < 3 * 16_384  # pages of an array; each of the ten steps makes one


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts page faults by /proc")
def test_freed_memory_is_kept():
    """Touching the same 64 MiB again costs no page faults once glibc keeps it."""
    code = (
        "import resource, sys, numpy as np; from experiments import cli\n"
        "if sys.argv[1] == 'keep': cli.keep_freed_memory()\n"
        "np.ones(1 << 23)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(5): np.ones(1 << 23)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, cwd=ROOT).stdout)
        for mode in ("keep", "leave")
    }
    assert faults["keep"] * 10 < faults["leave"], faults


def test_a_reader_that_stops_reading_is_no_error_of_ours(folder):
    script = f"{sys.executable} -m demo_main --config=demo_config.py --workdir=run --action=talk | head -1"
    done = subprocess.run(script, shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


# The command `ptjax`.


def test_the_command_lists_the_experiments_and_suggests(folder):
    done = python("experiments", "--help")
    assert done.returncode == 0 and all(f"  {name} " in done.stdout for name in ("prepare", "pretrain"))
    typo = python("experiments", "pretrian", "--help")
    assert typo.returncode == 2 and "Did you mean 'pretrain'?" in typo.stderr


@pytest.mark.parametrize("name", MAINS)
def test_every_main_answers_help(folder, name):
    done = python("experiments", name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m experiments.{name} " in done.stdout and "--workdir" in done.stdout
    assert commands()[name] in done.stdout and f"python -m experiments.{name} --" in done.stdout  # says what, and how
