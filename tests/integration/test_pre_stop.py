"""What Kubernetes runs before it stops a worker's pod, taken from the manifest and run beside a worker that draws."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml
from stacks import PHOTOS, ROOT, people_manifest, serverless

from jobs import enqueue

MANIFEST = ROOT / "docker" / "kubernetes" / "base" / "worker.yaml"


def pre_stop() -> list[str]:
    """The command of the pod's preStop hook."""
    objects = yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    (pod,) = [one["spec"]["template"]["spec"] for one in objects if one["kind"] == "StatefulSet"]
    command: list[str] = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    return command


def test_a_worker_that_draws_is_drained_by_the_name_of_its_machine(tmp_path: Path) -> None:
    # Given a worker in the middle of a job whose pictures take their time
    with serverless(tmp_path / "home", lambda: None) as stack:  # type: ignore[arg-type, return-value]
        long = people_manifest(defaults={"size": 64, "steps": 4, "seeds": 8})  # 48 pictures, about a second each
        enqueue(long, settings=stack.settings, base=PHOTOS)
        with stack.worker(PORTRAITS_FAKE_STEP_SECONDS="1", PORTRAITS_CLERK="off") as process:
            stack.wait(lambda found: 0 < found.job["done"] < 48)

            # When the hook runs as it stands, with the pod's `portraits` first on the path
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
            environment = {**os.environ, **stack.environment, "PATH": path, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                pre_stop(), env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
            )

            # Then it waits until the batch is drawn, the rest has gone back, and nothing more is claimed
            assert done.returncode == 0, done.stdout + done.stderr
            assert ": drained" in done.stdout
            drawn = stack.wait(lambda found: True).job
            assert drawn["running"] == 0 and 0 < drawn["done"] < 48 and drawn["failed"] == 0
            assert process.poll() is None

            # And SIGTERM, which comes next, ends it
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
            assert stack.wait(lambda found: True).job["done"] == drawn["done"]
