"""The manifests for Kubernetes: put together by kustomize, of the right form, and all they name exists."""

from __future__ import annotations

import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from services import fresh_postgres
from sqlalchemy import text
from stacks import PHOTOS, people_manifest
from test_docker import COMMANDS, commands_in, require_command, require_settings

from jobs.database import Database
from jobs.intake import enqueue
from jobs.repository import backlog, security
from jobs.repository import control as control_rows
from jobs.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "docker" / "kubernetes"
OVERLAYS = sorted(folder.name for folder in (FOLDER / "overlays").iterdir())
KUBECTL = str(Path(sys.executable).parent / "kubectl")


@cache
def objects(overlay: str) -> list[dict[str, Any]]:
    """Everything that an overlay would apply."""
    done = subprocess.run([KUBECTL, "kustomize", str(FOLDER / "overlays" / overlay)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return list(yaml.safe_load_all(done.stdout))


def find(overlay: str, kind: str, name: str) -> dict[str, Any]:
    (found,) = [one for one in objects(overlay) if one["kind"] == kind and one["metadata"]["name"] == name]
    return found


def pods(overlay: str) -> dict[str, dict[str, Any]]:
    """The pod of each object that makes some."""
    found = {}
    for one in objects(overlay):
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            found[one["metadata"]["name"]] = spec["template"]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_has_the_form_of_its_kind(overlay: str) -> None:
    for one in objects(overlay):
        if one["apiVersion"].startswith("keda.sh/"):
            made = getattr(keda, one["kind"]).model_validate(one)
            assert made.metadata.name == one["metadata"]["name"]
        else:
            kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_without_root_and_rights(overlay: str) -> None:
    assert len(pods(overlay)) == 8
    for name, pod in pods(overlay).items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] == 10001, name
        for container in spec["containers"]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] is True and rights["allowPrivilegeEscalation"] is False, name
            assert rights["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_run_what_exists_with_settings_that_exist(overlay: str) -> None:
    (config,) = [
        one["data"] for one in objects(overlay) if one["kind"] == "ConfigMap" and "PORTRAITS_CLERK" in one["data"]
    ]
    require_settings({name for name in config if name.startswith("PORTRAITS_")})
    for pod in pods(overlay).values():
        for container in pod["spec"]["containers"]:
            commands = commands_in([word for word in container["command"] if word not in {"tini", "--"}])
            assert commands
            for command in commands:
                require_command(command)
            require_settings({one["name"] for one in container.get("env", []) if one["name"].startswith("PORTRAITS_")})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_pod_has_the_secrets_of_its_kind_alone(overlay: str) -> None:
    # Given the secret that each pod is given
    found = {}
    for name, pod in pods(overlay).items():
        (found[name],) = [one["secret"]["secretName"] for one in pod["spec"]["volumes"] if "secret" in one]

    # Then what strangers talk to has one of its own, and what may erase or owns the tables is no worker's
    assert found == {
        "portraits-api": "portraits-api",
        **dict.fromkeys(("portraits-clerk", "portraits-numbers", "portraits-worker"), "portraits"),
        **dict.fromkeys(("portraits-privacy", "portraits-sweep"), "portraits-privacy"),
        **dict.fromkeys(("portraits-archive", "portraits-migrate"), "portraits-owner"),
    }
    tenant_role = {"name": "PORTRAITS_DATABASE_TENANT_ROLE", "value": security.TENANT_ROLE}
    held = {name for name, pod in pods(overlay).items() if tenant_role in pod["spec"]["containers"][0].get("env", [])}
    assert held == {"portraits-api"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_pods(overlay: str) -> None:
    # Given the labels of all pods
    labels = [set(pod["metadata"]["labels"].items()) for pod in pods(overlay).values()]

    # Then whatever selects pods finds some
    for one in objects(overlay):
        spec = one.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector"))
        if selector is None:
            continue
        wanted = set(selector.get("matchLabels", selector if one["kind"] == "Service" else {}).items())
        assert any(wanted <= one_pod for one_pod in labels), one["metadata"]["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_and_services_name_ports_that_pods_have(overlay: str) -> None:
    for name, pod in pods(overlay).items():
        for container in pod["spec"]["containers"]:
            ports = {one["name"] for one in container.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in ports, f"{name} {probe}"
    for kind in ("portraits-api", "portraits-worker"):
        (service,) = [one for one in objects(overlay) if one["kind"] == "Service" and one["metadata"]["name"] == kind]
        ports = {one["name"] for one in pods(overlay)[kind]["spec"]["containers"][0]["ports"]}
        assert {one["targetPort"] for one in service["spec"]["ports"]} <= ports


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_worker_drains_before_it_is_stopped_and_has_the_time(overlay: str) -> None:
    # Given the worker's pod
    pod = pods(overlay)["portraits-worker"]["spec"]
    shell, flag, line = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    words = shlex.split(line)

    # Then it drains itself by the name of its machine, for less than it is given
    assert (shell, flag) == ("sh", "-c")
    require_command(words)
    assert words[:3] == ["portraits", "drain", "$(hostname)"]
    seconds = int(words[words.index("--timeout") + 1])
    assert seconds + 30 <= pod["terminationGracePeriodSeconds"]
    assert "portraits drain" in COMMANDS


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_numbers_are_told_to_what_watches_and_not_at_the_ingress(overlay: str) -> None:
    # Given the pods that tell the fleet's numbers without asking for a token, and what may reach pods from outside
    tells = {"name": "PORTRAITS_SERVE_METRICS", "value": "true"}
    told = {name for name, pod in pods(overlay).items() if tells in pod["spec"]["containers"][0].get("env", [])}
    policy = find(overlay, "NetworkPolicy", "numbers")["spec"]
    served = [one["spec"]["selector"] for one in objects(overlay) if one["kind"] == "Service"]

    # Then it is one that no service leads to, and that only what watches reaches
    assert told == {"portraits-numbers"} and not Settings.model_fields["serve_metrics"].default
    assert {"app.kubernetes.io/name": "portraits-numbers"} not in served
    assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "portraits-numbers"}
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def test_a_gpu_worker_asks_for_one_gpu_and_the_mini_worker_for_none() -> None:
    gpu, mini = (pods(name)["portraits-worker"]["spec"]["containers"][0]["resources"] for name in ("gpu", "mini"))
    assert gpu["limits"]["nvidia.com/gpu"] == gpu["requests"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in {**mini["limits"], **mini["requests"]}


def test_what_scales_asks_the_database_for_open_pictures(tmp_path: Path) -> None:
    # Given the query of the manifest, and a database with a job of twelve pictures
    (trigger,) = find("gpu", "ScaledObject", "portraits-worker")["spec"]["triggers"]
    query = text(trigger["metadata"]["query"].replace(":", "\\:"))
    with fresh_postgres() as url:
        settings = Settings(home=tmp_path, database_url=url, _env_file=None)  # type: ignore[arg-type]
        database = Database.from_settings(settings)
        try:
            database.upgrade()

            def asked() -> tuple[float, int]:
                with database.reading() as tx:
                    known = sum(row["pictures"] for row in backlog.units(tx) if row["state"] in {"ready", "leased"})
                    return float(tx.execute(query).scalar_one()), known

            # Then nothing is open, and after enqueueing what the product itself counts
            assert asked() == (0, 0)
            enqueue(people_manifest(), settings=settings, base=PHOTOS)
            assert asked() == (12, 12)

            # And what is paused asks for no worker
            with database.transaction() as tx:
                control_rows.pause_fleet(tx)
            assert asked()[0] == 0
        finally:
            database.dispose()
