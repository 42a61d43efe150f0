"""The parts of the demo that are no command line: its settings, its manifest, its worker process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from jobs.secret_files import secret_fields
from jobs.settings import Settings

STOP_SECONDS = 60.0
LOG_LINES = 20
_PROMPTS = {
    "office": "portrait photo of {subject}, wearing a navy suit, smiling, in an office",
    "beach": "portrait photo of {subject}, wearing an orange t-shirt and sunglasses, laughing, on a beach",
    "library": "portrait photo of {subject}, wearing a green sweater, neutral face, in a library",
    "starry-sky": "portrait photo of {subject}, wearing a black turtleneck, serious face, under a starry sky",
}


def demo_settings(home: Path) -> Settings:
    """Everything embedded and in `home`, whatever is configured elsewhere; other settings as they are."""
    return Settings(home=home, database_url="", broker_url="", storage_url="", profile="mini", tenant="demo")


def worker_environment(settings: Settings) -> dict[str, str]:
    """The environment in which a worker has the same settings.

    One thread, unless the user says otherwise: the mini pack's products are so small that a second thread gains nothing
    on a free processor, and on a busy one it costs a factor of seven, since the threads spin while they wait.
    """
    elsewhere = {f"PORTRAITS_{name.upper()}_FILE" for name in secret_fields(Settings)}
    return {
        "OMP_NUM_THREADS": "1",
        **{name: value for name, value in os.environ.items() if name not in elsewhere},
        "PORTRAITS_HOME": str(settings.home),
        "PORTRAITS_DATABASE_URL": settings.database_url.get_secret_value(),
        "PORTRAITS_BROKER_URL": settings.broker_url.get_secret_value(),
        "PORTRAITS_STORAGE_URL": settings.storage_url,
        "PORTRAITS_PROFILE": settings.profile,
        "PORTRAITS_TENANT": settings.tenant,
    }


def pack_is_there(settings: Settings) -> bool:
    """Whether the demo's model has its weights: a checkout's trained pack, or an untrained one made before."""
    from jobs.profiles import MINI, PACK_CARD, find_profile
    from worker.mini_pack import untrained_folder

    return bool(find_profile(settings, MINI).base) or (untrained_folder(settings.home) / PACK_CARD).is_file()


def build_pack(settings: Settings) -> None:
    """Make the untrained pack, where there is no other and it is not there."""
    from jobs.profiles import MINI, find_profile
    from worker.mini_pack import with_weights
    from worker.quiet import quiet_libraries

    quiet_libraries()
    with_weights(find_profile(settings, MINI), settings.home)


def demo_manifest(home: Path) -> Path:
    """`examples/people.yaml` of a checkout; where there is none, the same people drawn into `home`."""
    example = Path(__file__).resolve().parent.parent / "examples" / "people.yaml"
    return example if example.is_file() else write_manifest(home / "examples")


def write_manifest(folder: Path) -> Path:
    """Draw the example people's photos into the folder, with a manifest beside them."""
    from hyperlora.mini.people import person
    from hyperlora.mini.photos import PHOTOS, write_photos

    photos = write_photos(folder / "photos")
    manifest = {
        "name": "People of the demo",
        "profile": "mini",
        "prompts": [{"name": name, "text": text} for name, text in _PROMPTS.items()],
        "identities": [
            {
                "id": who,
                "subject": person(seed).subject,
                "photos": [f"photos/{photo.name}" for photo in photos if photo.stem.rpartition("-")[0] == who],
            }
            for who, (seed, _) in PHOTOS.items()
        ],
    }
    file = folder / "people.json"
    file.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    return file


class WorkerProcess:
    """A worker in a process of its own, stopped when the block ends; its output goes to a log file."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self._command, self._environment, self.log = list(command), environment, log
        self._process: subprocess.Popen[bytes] | None = None
        self._told_to_stop = False
        self.keep = False

    def __enter__(self) -> WorkerProcess:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            # A session of its own: an interrupt from the keyboard is ours to pass on, after the job was cancelled.
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.keep or error is not None:
            self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def begin_stop(self) -> None:
        """SIGTERM: it finishes its batch, and ends."""
        if self._process is not None and self._process.poll() is None and not self._told_to_stop:
            self._told_to_stop = True  # a second SIGTERM would not change its mind
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Tell it to end, and wait. If it does not end, it and its children are killed."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        self.begin_stop()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def last_lines(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])
