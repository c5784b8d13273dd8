"""What a forked child does to its parent's client, measured: without pidpool, and with it.

Each client is opened through a recording proxy, in a fresh process that forks (`tests.drivers.owning`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pidpool.hazards.proxy import RecordingProxy
from tests.drivers.owning import FINALIZED, PATIENCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self

    from pidpool.hazards.proxy import Traffic
    from tests.drivers.specimens import Place, Specimen

SILENT = "silent"
BUT = "; but "

_ROOT = Path(__file__).parents[2]
_TOO_LONG = 60.0  # seconds for one deed with its preparations, on a machine that has other work
_NOTICED_SECONDS = 1.0  # on loopback it takes a millisecond


class MeasurementError(RuntimeError):
    """The client could not be opened."""


@dataclass(frozen=True)
class Findings:
    """What was seen of a client, in the table's words.

    Parameters:
        drop: a child only drops it, without pidpool.
        close: a child closes it, without pidpool.
        guarded: the same, and the rest, with pidpool.
    """

    drop: str
    close: str
    guarded: str


def measure(specimen: Specimen, place: Place) -> Findings:
    """Measure a client against the server at a place; over TLS, if the place has a certificate."""
    if specimen.server == "none":
        bare = {"drop": _words(specimen, place, ("drop",), guarded=False)["drop"], "close": "unverified"}
        return Findings(**bare, guarded=_lifecycle(_words(specimen, place, ("drop",), guarded=True)["drop"]))
    bare = _words(specimen, place, ("drop", "close"), guarded=False)
    return Findings(**bare, guarded=measure_guarded(specimen, place))


def measure_guarded(specimen: Specimen, place: Place) -> str:
    """Measure only what happens with pidpool."""
    if specimen.server == "none":
        return _lifecycle(_words(specimen, place, ("drop",), guarded=True)["drop"])
    survive = () if specimen.server == "file" else ("survive",)
    return _summary(_words(specimen, place, ("drop", "close", "close_itself", *survive), guarded=True))


def _lifecycle(words: str) -> str:
    return "**pinned**: its finalizer does not run" if words == SILENT else words


def _summary(words: Mapping[str, str]) -> str:
    """Return what pidpool does, and what it does not."""
    through = {"drop": "dropped", "close": "closed"}
    said = [f"{what}: {words[deed]}" for deed, what in through.items() if words[deed] != SILENT] or [SILENT]
    if "survive" in words:
        said.append(words["survive"])
    past = words["close_itself"]
    return "; ".join(said) + (f"{BUT}its own `close()`: {past.partition(':')[0]}" if past != SILENT else "")


def _words(specimen: Specimen, place: Place, deeds: Sequence[str], *, guarded: bool) -> dict[str, str]:
    """Measure deeds; each goes on with the client that the one before has left whole, or else with a fresh one."""
    found: dict[str, str] = {}
    while len(found) < len(deeds):
        with _Owner(specimen, place, deeds[len(found) :], guarded=guarded) as owner:
            for deed in deeds[len(found) :]:
                found[deed] = owner.survive() if deed == "survive" else owner.watch()
                if found[deed] != SILENT:
                    break
    return found


class _Owner:
    """The process that has the client, and the proxy that it is connected through."""

    def __init__(self, specimen: Specimen, place: Place, deeds: Sequence[str], *, guarded: bool) -> None:
        self._leaving = contextlib.ExitStack()
        self._folder = Path(self._leaving.enter_context(tempfile.TemporaryDirectory(prefix="specimen-")))
        self._is_file = specimen.server in ("file", "none")
        self._proxy: RecordingProxy | None = None
        if self._is_file:
            place = replace(place, folder=str(self._folder))
        else:
            self._proxy = self._leaving.enter_context(RecordingProxy(place.host, place.port))
            place = replace(place, host=self._proxy.host, port=self._proxy.port)
        job = {"client": specimen.client, "place": asdict(place), "guarded": guarded, "deeds": deeds}
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.drivers.owning", json.dumps(job)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._leaving.enter_context((self._folder / "errors").open("w")),
            start_new_session=True,
            bufsize=0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._leaving.close()

    def watch(self) -> str:
        """Have the child do the next deed; return what became of the parent and the child."""
        self._heard("begun")
        before = self._living()
        self._on()
        code = self._heard("child")
        spoken, ended = self._compare(before)
        if spoken and not ended:  # the server takes its time to leave
            ended = self._ends(before, _NOTICED_SECONDS)
        self._on()
        same = self._heard("same", may_end=True)
        words = [_CHILD[code]] if code in _CHILD else []
        if code < 0 and not words:
            words = ["crashes the child"]
        if ended or same is False:
            words.append(self._loss(spoken=spoken, ended=ended))
        elif spoken:
            words.append("speaks on the parent's connection")
        if same is None:
            words.append("the parent hangs" if self._process.wait() == -signal.SIGALRM else "the parent crashes")
        if same is not None:
            self._on()
        return "; ".join(words) or SILENT

    def _loss(self, *, spoken: bool, ended: bool) -> str:
        if self._is_file:
            return "the parent's rows are lost"
        if spoken and ended:
            return "says goodbye: the parent's session ends"
        return "shuts down the parent's stream" if ended else "breaks the parent"

    def survive(self) -> str:
        """Kill the parent while its child lives; return whether the child has let go of the socket."""
        self._heard("begun")
        before = self._living()
        self._on()
        held = self._heard("held")
        self._process.kill()
        self._process.wait()
        noticed = self._ends(before, PATIENCE if held == 0 else _NOTICED_SECONDS)
        if noticed == bool(held):
            raise MeasurementError(f"the child has {held} sockets, and the parent's death was noticed: {noticed}")
        return "released" if noticed else "**pinned**"

    def _living(self) -> dict[int, Traffic]:
        seen = self._proxy.snapshot() if self._proxy else {}
        return {number: traffic for number, traffic in seen.items() if not traffic.client_ended}

    def _compare(self, before: Mapping[int, Traffic]) -> tuple[bool, bool]:
        """Return whether anything was said since, and whether the stream was ended, on connections that lived then."""
        now = self._proxy.snapshot() if self._proxy else {}
        spoken = any(now[number].client_bytes > was.client_bytes for number, was in before.items())
        return spoken, any(now[number].client_ended or now[number].server_ended for number in before)

    def _ends(self, before: Mapping[int, Traffic], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not (ended := self._compare(before)[1]) and time.monotonic() < deadline:
            time.sleep(0.01)
        return ended

    def _on(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"\n")

    def _heard(self, what: str, *, may_end: bool = False) -> Any:  # noqa: ANN401 - JSON
        assert self._process.stdout is not None
        killer = threading.Timer(_TOO_LONG, self._kill)
        killer.start()
        line = self._process.stdout.readline()
        killer.cancel()
        killer.join()
        if not line:
            if may_end:
                return None
            errors = (self._folder / "errors").read_text(errors="replace").strip()
            raise MeasurementError(f"no {what!r}: {errors[-2000:]}")
        fact = json.loads(line)
        if fact == what:
            return None
        return fact[what]

    def _kill(self) -> None:
        # Children are in the same process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


_CHILD = {
    -signal.SIGALRM: "the child hangs",
    FINALIZED: "its finalizer runs",
}
