"""The launch of ranks, with ranks that are a few lines of Python: how they start, end, and what is told of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from diffexp.core.errors import ConfigError, PreemptedError
from diffexp.launch import ranks, spawn
from diffexp.launch.handover import Ending, Handover
from diffexp.launch.ranks import World, check_ranks, wants_ranks, world
from diffexp.launch.signals import StopRequest
from diffexp.launch.spawn import RankError

CONFIG = {"task": "train", "seed": 1.0e-8, "name": "1e-3", "trainer": {"devices": 2}, "training": {"batch_size": 32}}
BEGIN = """
import json, os, signal, sys, time
from pathlib import Path
folder, rank = Path(os.environ["DIFFEXP_RANKS"]), int(os.environ["RANK"])
def end(kind, code=0, message="", result=None):
    values = {"kind": kind, "code": code, "message": message, "result": result}
    (folder / f"rank{rank}.json").write_text(json.dumps(values))
    sys.exit(code)
"""


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Spawn two ranks that run these lines; `here` in them is the test's folder."""

    def run(lines: str) -> float | None:
        monkeypatch.setattr(spawn, "_START", f"{BEGIN}\nhere = Path({str(tmp_path)!r})\n{lines}")
        return spawn.spawn(CONFIG)

    return run


def test_ranks_know_their_place_and_the_first_ones_result_counts(play, tmp_path):
    lines = """
names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT".split()
(here / f"{rank}.json").write_text(json.dumps([os.environ[name] for name in names]))
(here / f"{rank}.yaml").write_text((folder / "config.yaml").read_text())
end("done", result=rank + 0.25)
"""
    assert play(lines) == 0.25
    places = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert [place[:5] for place in places] == [[str(rank), str(rank), "2", "2", "127.0.0.1"] for rank in (0, 1)]
    assert places[0][5] == places[1][5]
    assert (tmp_path / "0.yaml").read_text() == (tmp_path / "1.yaml").read_text()


def test_the_frozen_configuration_comes_back_as_it_was(tmp_path):
    folder = Handover(tmp_path)
    folder.write({**CONFIG, "list": [1, 2.5, None, True, "???", "off"], "inf": float("inf")}, 7)
    back = folder.config()
    assert back == {**CONFIG, "list": [1, 2.5, None, True, "???", "off"], "inf": float("inf")}
    assert list(back) == [*CONFIG, "list", "inf"]
    assert folder.pipe() == 7
    assert json.loads((tmp_path / "start.json").read_text())["path"] == [os.path.abspath(entry) for entry in sys.path]


def test_only_rank_0_gets_the_socket_of_the_store_and_its_port_is_taken(play, tmp_path):
    lines = """
import socket
held = socket.socket(fileno=int(os.environ["DIFFEXP_STORE"])) if rank == 0 else None
if held: assert held.getsockname()[1] == int(os.environ["MASTER_PORT"])
try:
    socket.create_server(("127.0.0.1", int(os.environ["MASTER_PORT"]))).close()
except OSError:
    (here / f"taken{rank}").touch()
if rank == 1:
    try: os.fstat(int(os.environ["DIFFEXP_STORE"]))
    except OSError: (here / "closed").touch()
    (here / "looked").touch()
while rank == 0 and not (here / "looked").exists(): time.sleep(0.01)
end("done")
"""
    play(lines)
    assert {"taken0", "taken1", "closed"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.alone
def test_a_killed_rank_is_named_and_the_others_are_ended(play, monkeypatch):
    monkeypatch.setattr(spawn, "_GRACE", 1.0)
    lines = """
signal.signal(signal.SIGTERM, lambda *_: end("lost", 1, "gone"))
if rank == 1:
    print("half way", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""
    began = time.monotonic()
    with pytest.raises(RankError) as caught:
        play(lines)
    assert 1.0 < time.monotonic() - began < 4.0  # the other one had its time to notice
    assert caught.value.exit_code == 1
    assert str(caught.value).startswith("rank 1 of 2 was killed by SIGKILL (the last line of its log: half way); the ")


@pytest.mark.alone
def test_a_rank_that_does_not_listen_is_killed(play, monkeypatch):
    monkeypatch.setattr(spawn, "_GRACE", 0.3)
    lines = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if rank == 1: os._exit(3)
time.sleep(60)
"""
    began = time.monotonic()
    with pytest.raises(RankError, match="rank 1 of 2 ended with exit code 3, without a word; the others were ended"):
        play(lines)
    assert time.monotonic() - began < 4.0


@pytest.mark.parametrize(
    ("first", "second", "message", "code"),
    [
        ('end("refused", 2, "no data")', 'end("refused", 2, "no data")', "no data", 2),
        ('end("lost", 1, "gone")', 'end("refused", 2, "disk")', "rank 1: disk", 2),
        ('end("failed", 1, "ValueError: x")', 'end("lost", 1, "gone")', "ValueError: x", 1),
        ('end("lost", 1, "gone")', 'end("lost", 1, "gone")', "gone", 1),
    ],
)
def test_the_cause_is_told_and_not_what_followed(play, first, second, message, code):
    with pytest.raises(RankError) as caught:
        play(f"{first} if rank == 0 else {second}")
    assert (str(caught.value), caught.value.exit_code) == (message, code)


def test_a_signal_goes_to_every_rank_once(play, tmp_path):
    """The command is told to stop; every rank says that it has, and the command says so once."""
    lines = """
seen = []
signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
(here / f"ready{rank}").touch()
while not seen: time.sleep(0.01)
time.sleep(0.3)
(here / f"seen{rank}").write_text(str(len(seen)))
end("preempted", 143, "stopped by SIGTERM at step 5")
"""

    def stop() -> None:
        while not all((tmp_path / f"ready{rank}").exists() for rank in (0, 1)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(PreemptedError, match="stopped by SIGTERM at step 5") as caught:
        play(lines)
    assert caught.value.exit_code == 143
    assert [(tmp_path / f"seen{rank}").read_text() for rank in (0, 1)] == ["1", "1"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.alone
def test_a_stop_before_the_first_step_is_a_stop_too(play):
    began = time.monotonic()
    with pytest.raises(PreemptedError, match="stopped by SIGTERM before the first step") as caught:
        play("os.kill(os.getpid(), signal.SIGTERM) if rank == 1 else time.sleep(60)")
    assert caught.value.exit_code == 143
    assert time.monotonic() - began < 3.0


PARENT = """
import sys
from diffexp.launch import spawn
spawn._START = sys.argv[1]
try:
    spawn.spawn({"trainer": {"devices": 2}})
except KeyboardInterrupt:
    sys.exit(130)
"""
STUBBORN = """
watch = int(json.loads((folder / "start.json").read_text())["pipe"])
signal.signal(signal.SIGTERM, lambda *_: None)
(here / f"{rank}").write_text(str(os.getpid()))
"""


def start_stubborn(tmp_path: Path, lines: str) -> tuple[subprocess.Popen, list[int]]:
    """A command of its own process, and the process ids of its two ranks, which do not mind SIGTERM."""
    code = f"{BEGIN}\nhere = Path({str(tmp_path)!r})\n{STUBBORN}\n{lines}"
    process = subprocess.Popen([sys.executable, "-c", PARENT, code])
    deadline = time.monotonic() + 20.0
    while not all((tmp_path / f"{rank}").exists() and (tmp_path / f"{rank}").read_text() for rank in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process, [int((tmp_path / f"{rank}").read_text()) for rank in (0, 1)]


def gone(pid: int, seconds: float) -> bool:
    """Whether a process ends in this time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.mark.alone
def test_a_second_signal_ends_everything_at_once(tmp_path):
    process, pids = start_stubborn(tmp_path, "time.sleep(60)")
    process.send_signal(signal.SIGTERM)
    time.sleep(1.2)  # sooner it would be taken for an echo
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(5.0) == 130
    assert all(gone(pid, 0.5) for pid in pids)


def test_ranks_notice_that_their_parent_was_killed(tmp_path):
    process, pids = start_stubborn(tmp_path, "os.read(watch, 1)")  # as a rank's own thread does
    process.kill()
    process.wait()
    assert all(gone(pid, 3.0) for pid in pids)


LAUNCHER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(60)
"""
WORKER = """
import os, time
from pathlib import Path
from diffexp.core.errors import PreemptedError
from diffexp.launch.signals import StopRequest, bound_to_parent
with bound_to_parent(), StopRequest() as stop:
    Path("worker").write_text(str(os.getpid()))
    while True:
        try:
            stop.check()
        except PreemptedError as error:
            Path("stopped").write_text(f"{error} {error.exit_code}")
            break
        time.sleep(0.05)
Path("next").write_text("the worker goes on")
"""


def test_a_launchers_worker_stops_in_order_when_its_launcher_is_killed(tmp_path):
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, WORKER], cwd=tmp_path)
    deadline = time.monotonic() + 20.0
    while not ((tmp_path / "worker").exists() and (tmp_path / "worker").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    launcher.kill()
    launcher.wait()
    assert gone(int((tmp_path / "worker").read_text()), 5.0)
    assert (tmp_path / "stopped").read_text() == "stopped by SIGTERM 143"
    assert not (tmp_path / "next").exists()


def test_the_parent_of_ranks_never_imports_torch():
    code = """
import sys
from diffexp.launch import spawn
spawn._START = sys.argv[1]
from diffexp.__main__ import main
assert main(["experiment=gddim_vp", "scale=quick", "trainer.devices=2", "task=train"]) == 0
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, f"{BEGIN}\nend('done')"], check=True, timeout=60)


def test_an_echo_of_a_signal_is_no_second_one(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with StopRequest() as stop:
        stop.received = signal.SIGINT  # another rank's, by agreement
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
        now[0] = 10.9
        os.kill(os.getpid(), signal.SIGTERM)
        now[0] = 11.2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_alone_every_question_has_its_own_answer():
    here = world()
    assert here == World()
    assert here.main
    assert here.share({"a": 1}) == {"a": 1}
    assert here.gather(0.1) == [0.1]
    assert here.largest(15) == 15
    assert here.any(True) is True
    assert here.any(False) is False
    here.barrier()
    ranks.leave()
    assert world() is here
    assert ranks.joined() is False


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PreemptedError("stopped", 143), Ending("preempted", 143, "stopped")),
        (ranks.RankLostError("gone"), Ending("lost", 1, "gone")),
        (ConfigError("no\ndata"), Ending("refused", 2, "no data")),
        (KeyboardInterrupt(), Ending("interrupted", 130, "interrupted")),
        (SystemExit(143), Ending("preempted", 143, "exit code 143")),
        (ZeroDivisionError("x"), Ending("failed", 1, "ZeroDivisionError: x")),
    ],
)
def test_endings(error, expected, tmp_path):
    assert Ending.of(error) == expected
    folder = Handover(tmp_path)
    assert folder.ending(1) is None
    folder.end(1, expected)
    assert folder.ending(1) == expected


def test_what_a_rank_says_moves_into_the_run_folder(tmp_path, monkeypatch):
    """What it said before is carried over, behind what an earlier start has left there; the parent still finds it."""
    (tmp_path / "handover").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rank1.log").write_text("an earlier start\n")
    code = f"""
import os, subprocess, sys
from pathlib import Path
from diffexp.launch import handover
print("before")
for _ in range(2):  # the second time is harmless
    handover.write_on(Path({str(tmp_path / "run" / "rank1.log")!r}))
subprocess.run(["echo", "from below"])
print("after", file=sys.stderr)
"""
    folder = Handover(tmp_path / "handover")
    environment = {**os.environ, "DIFFEXP_RANKS": str(folder.folder), "RANK": "1"}
    with open(folder.log(1), "ab") as log:
        subprocess.run([sys.executable, "-c", code], env=environment, stdout=log, stderr=log, check=True)
    lines = (tmp_path / "run" / "rank1.log").read_text().splitlines()
    assert lines == ["an earlier start", "before", "from below", "after"]
    assert folder.last_words(1) == "after"
    assert folder.last_words(0) == ""


def test_lost_peers_are_told_from_other_errors():
    with pytest.raises(ranks.RankLostError, match=r"^another rank of this run has ended$"), ranks.lost_peers():
        raise RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]")
    with pytest.raises(RuntimeError, match="out of memory"), ranks.lost_peers():
        raise RuntimeError("out of memory")


def job(task: str = "train", devices: int = 2, batch: int = 32) -> dict:
    return {"task": task, "trainer": {"devices": devices}, "training": {"batch_size": batch}}


def test_what_trains_or_evaluates_wants_ranks():
    assert wants_ranks(job("run"))
    assert wants_ranks(job("train"))
    assert not wants_ranks(job("train", devices=1))
    assert wants_ranks(job("evaluate"))
    assert not wants_ranks(job("evaluate", devices=1))
    assert not wants_ranks(job("sample"))
    assert not wants_ranks({"task": "run"})


@pytest.mark.parametrize(
    ("devices", "batch", "hint"),
    [
        (3, 32, "training.batch_size=30 or 33, or trainer.devices=2 or 4?"),
        (64, 32, "training.batch_size=64, or trainer.devices=32?"),
        (5, 7, "training.batch_size=5 or 10, or trainer.devices=1 or 7?"),
    ],
)
def test_a_batch_that_cannot_be_shared_equally_is_refused(devices, batch, hint):
    with pytest.raises(ConfigError) as caught:
        check_ranks(job("train", devices, batch), False)
    assert str(caught.value).startswith(f"training.batch_size={batch}: {devices} devices cannot share it equally; ")
    assert str(caught.value).endswith(hint)
    check_ranks(job("evaluate", devices, batch), False)


def test_a_command_under_torchrun_is_held_to_it(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "x"}.items():
        monkeypatch.setenv(name, value)
    assert ranks.torchrun()
    with pytest.raises(ConfigError, match="RANK and WORLD_SIZE are set, but not MASTER_PORT"):
        check_ranks(job(), False)
    monkeypatch.setenv("MASTER_PORT", "1")
    check_ranks(job(), False)
    check_ranks(job("sample", 1), False)
    with pytest.raises(ConfigError, match=r"trainer.devices=1: torchrun has started 2 ranks; say trainer.devices=2"):
        check_ranks(job(devices=1), False)
    with pytest.raises(ConfigError, match="--multirun under torchrun"):
        check_ranks(job(), True)
    monkeypatch.setenv("DIFFEXP_RANKS", "/somewhere")  # a rank of ours, whatever started its parent
    assert not ranks.torchrun()


def test_a_rank_of_torchrun_speaks_up_when_it_has_no_log(tmp_path):
    code = """
import sys
from diffexp.launch import handover
handover.write_aside()
print("a trace", file=sys.stderr)
(handover.speak_up if sys.argv[1] == "loud" else handover.forget)()
print(handover._aside[0].exists())
"""
    for word, expected in (("loud", b"a trace\n"), ("quiet", b"")):
        done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, check=True)
        assert done.stderr == expected
        assert done.stdout == b""


def test_the_store_meets_on_the_parents_socket():
    """Two ranks in this process's children: they share, gather and take the largest, all through the given socket."""
    code = """
import os
from diffexp.launch import ranks
here = ranks.join()
assert here.share({"a": here.rank}) == {"a": 0}
assert here.gather(here.rank + 0.1) == [0.1, 1.1]
assert here.largest(here.rank) == 1 and here.any(here.rank == 1) and not here.any(False)
here.barrier()
if here.rank == 1: ranks.tell("the disk is full")
here.barrier()
if here.rank == 0: assert ranks.told() == "rank 1: the disk is full"
ranks.leave()
assert ranks.world().size == 1 and ranks.world().main == (here.rank == 0) and ranks.world().any(True)
"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fixed = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
        fixed |= {"DIFFEXP_RANKS": "-", "DIFFEXP_STORE": str(listener.fileno()), "OMP_NUM_THREADS": "1"}
        handles = (listener.fileno(),)
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code],
                env={**os.environ, **fixed, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                pass_fds=handles if rank == 0 else (),
            )
            for rank in range(2)
        ]
    assert [process.wait(60) for process in started] == [0, 0]
