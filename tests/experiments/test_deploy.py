"""The deployment files against the schemas they are written for, and their commands against the programs they call.

No Docker and no Kubernetes is needed, and none has run them.
"""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from jsonschema import ValidationError

DEPLOY = Path(__file__).parents[2] / "experiments" / "deploy"
MANIFESTS = ("kuberay.yaml", "services.yaml")
KUBERNETES = "1.37"

# What KubeRay's reference of ray.io/v1 lists of what is used here: field -> whether it must be there.
CLUSTER = {"headGroupSpec": True, "workerGroupSpecs": False, "rayVersion": False, "authOptions": False}
HEAD = {"template": True, "rayStartParams": False}
WORKERS = {
    "groupName": True, "minReplicas": True, "maxReplicas": True, "template": True, "replicas": False,
    "rayStartParams": False,
}  # fmt: skip
AUTH = {"mode": False, "secretName": False}
JOB = {"entrypoint": False, "clusterSelector": False, "rayClusterSpec": False, "submissionMode": False}


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def objects() -> list[dict[str, Any]]:
    return [document for name in MANIFESTS for document in yaml.safe_load_all((DEPLOY / name).read_text())]


def of_kind(kind: str) -> list[dict[str, Any]]:
    found = [document for document in objects() if document["kind"] == kind]
    assert found
    return found


def ray_pods() -> list[dict[str, Any]]:
    spec = of_kind("RayCluster")[0]["spec"]
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]


def pods() -> list[dict[str, Any]]:
    return ray_pods() + [one["spec"]["template"] for kind in ("Deployment", "StatefulSet") for one in of_kind(kind)]


def validate(found: dict[str, Any]) -> None:
    """By the schemas of Kubernetes; fields that these do not know are errors."""
    kubernetes_validate.validate(found, KUBERNETES, strict=True)


def test_compose_is_what_its_schema_says() -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(compose(), schema)
    broken = compose()
    broken["services"]["serve"]["restarts"] = "always"
    with pytest.raises(ValidationError, match="restarts"):
        jsonschema.validate(broken, schema)


def test_plain_objects_are_what_kubernetes_says() -> None:
    plain = [one for one in objects() if not one["apiVersion"].startswith("ray.io/")]
    assert len(plain) == len(objects()) - 2
    for found in plain:
        validate(found)
        with pytest.raises(ValidationError, match="sepc"):
            validate({**found, "sepc": {}})


def test_pods_of_the_cluster_are_what_kubernetes_says() -> None:
    for template in ray_pods():
        whole = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "ray"}, "template": template}
        validate(whole)
        template["spec"]["containers"][0]["resource"] = {}
        with pytest.raises(ValidationError, match="resource"):
            validate(whole)


def check_fields(spec: dict[str, Any], fields: dict[str, bool]) -> None:
    assert set(spec) <= set(fields)
    assert {name for name, must in fields.items() if must} <= set(spec)


def test_ray_objects_have_the_fields_that_kuberay_knows() -> None:
    (cluster,), (job,) = of_kind("RayCluster"), of_kind("RayJob")
    assert cluster["apiVersion"] == job["apiVersion"] == "ray.io/v1"
    spec = cluster["spec"]
    check_fields(spec, CLUSTER)
    check_fields(spec["headGroupSpec"], HEAD)
    check_fields(spec["authOptions"], AUTH)
    for group in spec["workerGroupSpecs"]:
        check_fields(group, WORKERS)
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    check_fields(job["spec"], JOB)
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}


def test_a_group_offers_the_device_and_ray_understands_how() -> None:
    groups = {
        group["groupName"]: group["rayStartParams"] for group in of_kind("RayCluster")[0]["spec"]["workerGroupSpecs"]
    }
    (argument,) = shlex.split(f"--resources={groups['jetson-orin']['resources']}")  # KubeRay writes it so, for a shell
    assert json.loads(argument.removeprefix("--resources=")) == {"jetson-orin": 1}


def test_images_and_versions_are_the_tested_ones() -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (DEPLOY.parents[1] / "constraints.txt").read_text(), re.MULTILINE))
    assert of_kind("RayCluster")[0]["spec"]["rayVersion"] == pinned["ray"]
    images = {one["image"] for one in compose()["services"].values()}
    images |= {container["image"] for pod in pods() for container in pod["spec"]["containers"]}
    images |= set(re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE))
    assert all(re.fullmatch(r"[a-z]+:\d[\w.-]+", image) for image in images)


def test_nothing_is_root_open_or_endless() -> None:
    for pod in pods():
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        for container in pod["spec"]["containers"]:
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert {"requests", "limits"} == set(container["resources"])
    for name, service in compose()["services"].items():
        assert service["read_only"]
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_no_secret_is_in_a_file_and_each_is_made_by_a_command_of_its_head() -> None:
    written = compose()
    assert all(set(one) == {"file"} for one in written["secrets"].values())
    made = re.search(r"#   for name in ([\w ]+);", (DEPLOY / "compose.yaml").read_text())
    assert set(made[1].split()) == set(written["secrets"])
    for service in written["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN", name):
                assert re.fullmatch(r".*(_FILE|_PATH)", name)
                assert value.removeprefix("/run/secrets/") in service["secrets"]
    heads = "".join((DEPLOY / name).read_text() for name in MANIFESTS)
    asked = set(re.findall(r"(?:secretKeyRef: \{name|secretName): ([\w-]+)", heads))
    assert asked == set(re.findall(r"create secret generic (\S+)", heads))
    assert not [one for one in objects() if one["kind"] == "Secret"]


def test_every_volume_that_is_mounted_exists() -> None:
    claims = {one["metadata"]["name"] for one in of_kind("PersistentVolumeClaim")}
    for kind in ("StatefulSet",):
        claims |= {claim["metadata"]["name"] for one in of_kind(kind) for claim in one["spec"]["volumeClaimTemplates"]}
    for pod in pods():
        volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
        mounted = {mount["name"] for container in pod["spec"]["containers"] for mount in container["volumeMounts"]}
        assert mounted <= set(volumes) | claims
        used = {one["persistentVolumeClaim"]["claimName"] for one in volumes.values() if "persistentVolumeClaim" in one}
        assert used <= claims


def commands() -> Iterator[list[str]]:
    """Every command line of the files, with those in `--search-arguments` as searches of their own."""
    for service in compose()["services"].values():
        yield service.get("command", [])
    for pod in pods():
        yield from (container.get("command", []) for container in pod["spec"]["containers"])
    yield shlex.split(of_kind("RayJob")[0]["spec"]["entrypoint"])
    for text in ("compose.yaml", "services.yaml"):
        yield from (
            shlex.split(line) for line in re.findall(r"#   .*?\b(nas token [^#\n]*)", (DEPLOY / text).read_text())
        )


def understood(command: list[str]) -> bool:
    """Parse a command line with the program it calls; what is wrong with it is raised."""
    program, *arguments = command
    if program == "nas":
        from typer.main import get_command

        from nas.cli.app import app

        parse(get_command(app), "nas", arguments)
        more = [one.partition("=")[2] for one in arguments if one.startswith("--search-arguments")]
        for text in more:
            parse(get_command(app), "nas", ["search", *shlex.split(text)])
    elif program == "ray":
        from ray.scripts.scripts import cli

        parse(cli, "ray", arguments)
    else:
        from mlflow.cli import cli

        assert program == "mlflow"
        parse(cli, "mlflow", arguments)
    return True


def parse(group: Any, name: str, arguments: list[str]) -> None:
    """What click does before it calls the function of a command."""
    context = group.make_context(name, list(arguments), resilient_parsing=False)
    while hasattr(context.command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        verb, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(verb, rest, parent=context)


def test_every_command_is_one_that_its_program_understands() -> None:
    found = [command for command in commands() if command]
    assert {command[0] for command in found} == {"nas", "ray", "mlflow"}
    assert {tuple(command[:2]) for command in found} >= {("nas", "serve"), ("nas", "search"), ("nas", "token")}
    assert all(understood(command) for command in found)


@pytest.mark.parametrize("wrong", ["nas serve --jbos=x", "ray start --heads", "mlflow server --prot=1", "nas serv"])
def test_a_wrong_command_is_found(wrong: str) -> None:
    with pytest.raises(Exception, match=r"[Nn]o such"):
        understood(wrong.split())


def test_the_image_is_made_of_what_the_project_has() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    project = (DEPLOY.parents[1] / "pyproject.toml").read_text()
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras.split(","))
    kept = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    assert all((DEPLOY.parents[1] / name).exists() for name in kept)
    wheel = re.search(r"packages = \[(.*)\]", project)[1].replace('"', "").split(", ")
    assert set(wheel) <= set(kept)
    assert "USER 10001" in text


def test_a_command_gets_the_password_that_is_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("two words\n")
    asked = [DEPLOY / "with-password", "sh", "-c", 'printf "%s|%s" "${PGPASSWORD-unset}" "$1"', "sh", "an argument"]

    def run(environment: dict[str, str]) -> subprocess.CompletedProcess:
        return subprocess.run(asked, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True)

    assert run({"PGPASSWORD_FILE": str(tmp_path / "password")}).stdout == "two words|an argument"
    assert run({}).stdout == "unset|an argument"
    missing = run({"PGPASSWORD_FILE": str(tmp_path / "none")})
    assert (missing.returncode != 0, missing.stdout) == (True, "")
