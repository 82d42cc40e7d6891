"""Commands side by side: what ends them, what they say, and that no two are at the same job."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ptjax.config import UserError
from ptjax.jobs import Job, run_here, run_on_slurm

ROOT = Path(__file__).parents[1]


def job(folder: Path, name: str, code: str) -> Job:
    return Job(name, (sys.executable, "-S", "-c", code), folder / name / "log.txt")


def outcomes(jobs, count=2, **settings) -> dict[str, str | None]:
    found = {}
    run_here(jobs, count, lambda job, problem: found.update({job.name: problem}), **settings)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(path: Path) -> str:
    for _ in range(200):
        if path.exists() and path.read_text().strip():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not come")


def test_every_job_is_run_and_one_that_fails_stops_no_other(tmp_path):
    jobs = [
        job(tmp_path, "good", "print('done')"),
        job(tmp_path, "bad", "print('first'); raise ValueError('a reason')"),
        job(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
        job(tmp_path, "last", "pass"),
    ]
    found = outcomes(jobs)
    assert found["good"] is None and found["last"] is None
    assert found["bad"].startswith("ValueError: a reason") and str(jobs[1].log) in found["bad"]
    assert "SIGKILL" in found["killed"]
    assert (tmp_path / "good" / "log.txt").read_text().splitlines()[-1] == "done"


def test_as_many_as_asked_for_run_at_once(tmp_path):
    seen = []
    jobs = [job(tmp_path, str(n), "import time; time.sleep(0.3)") for n in range(4)]
    outcomes(jobs, count=2, watch=lambda running: seen.append(len(running)))
    assert max(seen) == 2


def test_an_interrupt_ends_what_runs_with_its_children_and_starts_nothing_more(tmp_path):
    sleep = "import time; time.sleep(60)"
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', {sleep!r}]); "
    code += f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid)); {sleep}"

    def watch(running):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_here([job(tmp_path, "one", code), job(tmp_path, "two", "pass")], 1, lambda *_: None, watch)
    time.sleep(0.1)
    assert not alive(int((tmp_path / "pid").read_text()))
    assert not (tmp_path / "two").exists()


def test_sigterm_of_the_runner_ends_what_it_runs(tmp_path):
    runner = subprocess.Popen([sys.executable, "-c", RUNNER.format(folder=str(tmp_path))], cwd=ROOT)
    pid = int(wait_for(tmp_path / "pid"))
    runner.send_signal(signal.SIGTERM)
    runner.wait(20)
    assert not alive(pid)


def test_what_a_killed_runner_left_running_is_not_run_beside_itself(tmp_path):
    runner = subprocess.Popen([sys.executable, "-c", RUNNER.format(folder=str(tmp_path))], cwd=ROOT)
    pid = int(wait_for(tmp_path / "pid"))
    runner.kill()
    runner.wait()
    try:
        assert "another process is still at it" in outcomes([job(tmp_path, "one", "print('again')")])["one"]
    finally:
        os.kill(pid, signal.SIGKILL)
    while alive(pid):
        time.sleep(0.05)
    assert outcomes([job(tmp_path, "one", "print('again')")]) == {"one": None}
    assert (tmp_path / "one" / "log.txt").read_text().endswith("again\n")


RUNNER = """
import sys
from pathlib import Path
from ptjax.jobs import Job, run_here
folder = Path({folder!r})
code = f"import os, time; open({{str(folder / 'pid')!r}}, 'w').write(str(os.getpid())); time.sleep(60)"
run_here([Job("one", (sys.executable, "-S", "-c", code), folder / "one" / "log.txt")], 1, lambda *_: None)
"""


def test_slurm_needs_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'ptjax\[slurm\]'"):
        run_on_slurm([job(tmp_path, "one", "pass")], {}, tmp_path / "slurm", lambda *_: None)


def test_where_there_is_no_slurm_that_is_said(tmp_path):
    pytest.importorskip("submitit")
    with pytest.raises(UserError, match="SLURM does not take the jobs"):
        run_on_slurm([job(tmp_path, "one", "pass")], {}, tmp_path / "slurm", lambda *_: None)


def test_jobs_of_submitit_end_as_those_here(tmp_path):
    pytest.importorskip("submitit")
    jobs = [job(tmp_path, "good", "print('done')"), job(tmp_path, "bad", "raise ValueError('a reason')")]
    found = {}
    run_on_slurm(jobs, {"timeout_min": 2}, tmp_path / "slurm", lambda j, p: found.update({j.name: p}), cluster="local")
    assert found["good"] is None
    assert found["bad"].startswith("ValueError: a reason")
