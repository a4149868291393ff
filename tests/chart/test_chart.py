"""The Helm chart: rendered by Helm itself for many values, every object valid, and what must hold held."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import cast

import helm_python
import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from coproc.cli import cli
from coproc.config import REWRITES, Config
from coproc.flags import FlagFile, Flags, NextPlan, parse
from nurseries.root import CLOSE_SECONDS, START_SECONDS
from tests.chart.custom_resources import Tree, Value, check_custom_resource

CHART = Path(__file__).parents[2] / "chart"
DATABASE = {"existingSecret": "database"}
KUBERNETES = ("1.30", "1.33", "1.37")


def off(**roles: Tree) -> Tree:
    return {"roles": cast("Tree", roles)}


MATRIX: dict[str, Tree] = {
    "defaults": {},
    "everything": {
        "image": {"repository": "registry.example/coproc", "digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "registry"}],
        "database": {**DATABASE, "migrationSecret": "owner", "migrationKey": "url"},
        "objectStore": {"url": "https://s3.example/bucket/prefix", "existingSecret": "objects", "fromBytes": 1000000},
        "tokens": {"existingSecret": "tokens"},
        "tls": {"existingSecret": "certificate"},
        "chains": {"existingSecret": "chains", "key": "list"},
        "tracing": {"endpoint": "http://collector.observability:4318", "ratio": 0.25},
        "config": {"attempts": 5, "batch_window_seconds": 0.01, "limits__max_connections": 2000, "log_level": "debug"},
        "featureFlags": {
            "rewrites": {"column_sums": False},
            "batch_window_seconds": 0.02,
            "maximum_batch": 128,
            "executor": "auto",
            "next_plan": {"effective_at": "2030-01-01T00:00:00+01:00", "shift_semantics": "zero"},
        },
        "roles": {
            "api": {"service": {"type": "LoadBalancer", "annotations": {"a": "b"}}, "podAnnotations": {"x": "y"}},
            "workerCpu": {
                "keda": {"enabled": True},
                "affinity": {"nodeAffinity": {}},
                "nodeSelector": {"pool": "compute"},
                "extraEnv": [{"name": "COPROC_STRATEGY", "value": "throughput"}],
            },
            "workerGpu": {"enabled": True, "keda": {"enabled": True}, "runtimeClassName": "nvidia"},
            "listener": {"enabled": True, "replicas": 2},
        },
        "serviceAccount": {"annotations": {"role": "x"}},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True},
        "networkPolicy": {
            "apiFrom": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}],
            "metricsFrom": [{"namespaceSelector": {}}],
            "chainPorts": [8546],
            "chainTo": [{"ipBlock": {"cidr": "10.1.0.0/24"}}],
            "databaseTo": [{"ipBlock": {"cidr": "10.0.0.0/24"}}],
            "objectStoreTo": [{"ipBlock": {"cidr": "10.2.0.0/24"}}],
            "extraEgress": [{"ports": [{"port": 8546, "protocol": "TCP"}]}],
        },
    },
    "smallest": {
        "migration": {"enabled": False},
        "topologySpread": {"enabled": False},
        "serviceAccount": {"create": False},
        "networkPolicy": {"enabled": False},
        "roles": {
            "api": {"replicas": 1, "readiness": "http", "hpa": {"enabled": False}, "pdb": {"enabled": False}},
            "results": {"enabled": False},
            "workerCpu": {"replicas": 1, "pdb": {"enabled": False}},
        },
    },
    "workers by CPU": off(workerCpu={"hpa": {"enabled": True}}, api={"service": {"headless": True}}),
    "only GPUs": off(workerCpu={"enabled": False}, workerGpu={"enabled": True, "replicas": 3}),
    "long drain": {"drainSeconds": 900, "preStopSeconds": 20},
    "a listener": {"chains": {"existingSecret": "chains"}, **off(listener={"enabled": True})},
    "objects by the identity of pods": {"objectStore": {"url": "http://minio:9000/bucket"}},
    "no pause": {"preStopSeconds": 0, "drainSeconds": 0},
}


@cache
def render(name: str, release: str = "demo") -> tuple[Tree, ...]:
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render({"database": DATABASE, **MATRIX[name]}, name=release, namespace="fhe")
    documents = [document for path, text in files.items() if path.endswith(".yaml") for document in load(text)]
    return tuple(documents)


def load(text: str) -> list[Tree]:
    return [cast("Tree", document) for document in yaml.safe_load_all(text) if document]


def at(tree: Value, *path: str | int) -> Value:
    for step in path:
        if isinstance(step, int):
            assert isinstance(tree, list)
            tree = tree[step]
        else:
            assert isinstance(tree, dict)
            tree = tree[step]
    return tree


def kinds(name: str, kind: str) -> dict[str, Tree]:
    return {str(at(item, "metadata", "name")): item for item in render(name) if item["kind"] == kind}


def pods(name: str) -> dict[str, Tree]:
    """Pod specifications by the name of what makes them."""
    workloads = {**kinds(name, "Deployment"), **kinds(name, "Job")}
    return {made: cast("Tree", at(item, "spec", "template", "spec")) for made, item in workloads.items()}


@pytest.mark.parametrize("name", MATRIX)
def test_every_object_is_valid(name: str) -> None:
    documents = render(name)
    assert documents
    for document in documents:
        if re.search(r"keda\.sh|coreos\.com", str(document["apiVersion"])):
            check_custom_resource(document)
            continue
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)
    names = [(document["kind"], at(document, "metadata", "name")) for document in documents]
    assert len(set(names)) == len(names)


def test_the_validator_refuses_what_kubernetes_would() -> None:
    (deployment, *_) = (json.loads(json.dumps(item)) for item in render("defaults") if item["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.37", strict=True)
    (scaled, *_) = (json.loads(json.dumps(item)) for item in render("everything") if item["kind"] == "ScaledObject")
    scaled["spec"]["maxReplicas"] = 5
    with pytest.raises(AssertionError, match="maxReplicas"):
        check_custom_resource(scaled)


@pytest.mark.parametrize("name", MATRIX)
def test_lint_has_nothing_to_say(name: str) -> None:
    report = helm_python.lint(CHART, {"database": DATABASE, **MATRIX[name]}, strict=True)
    findings = [message for message in report["messages"] if message["error"] != "icon is recommended"]
    assert (findings, report["errors"]) == ([], [])


@pytest.mark.parametrize("name", MATRIX)
def test_pods_are_confined(name: str) -> None:
    for pod in pods(name).values():
        assert pod["enableServiceLinks"] is False
        assert pod["automountServiceAccountToken"] is False
        security = cast("Tree", pod["securityContext"])
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        container = at(pod, "containers", 0, "securityContext")
        assert container == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"name": "tmp", "mountPath": "/tmp"} in cast("list[Value]", at(pod, "containers", 0, "volumeMounts"))  # noqa: S108 - in a container


@pytest.mark.parametrize("name", MATRIX)
def test_a_pod_may_take_as_long_as_its_drain(name: str) -> None:
    """SIGKILL comes after the pause before SIGTERM, the drain, and the closing of five actors one after another."""
    values = MATRIX[name]
    drain, pause = int(str(values.get("drainSeconds", 60))), int(str(values.get("preStopSeconds", 5)))
    config = cast("Tree", next(iter(kinds(name, "ConfigMap").values()))["data"])
    assert config["COPROC_DRAIN_SECONDS"] == str(drain)
    for made, item in kinds(name, "Deployment").items():
        pod = cast("Tree", at(item, "spec", "template", "spec"))
        serves = made.endswith(("api", "results"))
        own = pause if serves else 0
        assert pod["terminationGracePeriodSeconds"] == own + drain + 60
        assert 5 * CLOSE_SECONDS < 60
        container = cast("Tree", at(pod, "containers", 0))
        expected = {"preStop": {"sleep": {"seconds": pause}}} if own else None
        assert container.get("lifecycle") == expected


@pytest.mark.parametrize("name", MATRIX)
def test_probes_ask_the_right_questions(name: str) -> None:
    secure = "tls" in MATRIX[name]
    for made, item in kinds(name, "Deployment").items():
        container = cast("Tree", at(item, "spec", "template", "spec", "containers", 0))
        assert at(container, "livenessProbe", "httpGet") == {"path": "/livez", "port": "health"}
        startup = cast("Tree", container["startupProbe"])
        assert startup["httpGet"] == {"path": "/startupz", "port": "health"}
        assert int(str(startup["periodSeconds"])) * int(str(startup["failureThreshold"])) > START_SECONDS
        readiness = cast("Tree", container["readinessProbe"])
        if made.endswith("api") and not secure and name != "smallest":
            assert readiness["grpc"] == {"port": 50051}
        else:
            assert readiness["httpGet"] == {"path": "/readyz", "port": "health"}


@pytest.mark.parametrize("name", MATRIX)
def test_settings_are_those_of_the_program(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pod's variables and arguments say is what ``coproc`` accepts."""
    data = next(item for made, item in kinds(name, "ConfigMap").items() if made.endswith("-config"))["data"]
    for variable, value in cast("dict[str, str]", data).items():
        monkeypatch.setenv(variable, value)
    for made, pod in pods(name).items():
        arguments = [str(argument) for argument in cast("list[Value]", at(pod, "containers", 0, "args"))]
        help_text = CliRunner().invoke(cli, [arguments[0], "--help"]).output
        assert all(option in help_text for option in arguments if option.startswith("--"))
        if "migrate" in made:
            continue
        config = Config(roles=arguments[2], database_url="postgresql://database/coproc")
        assert config.migrate_on_start is (name == "smallest")
        assert config.host == "0.0.0.0"  # noqa: S104 - in a pod
        for role in ("api", "results", "listener"):
            assert made.endswith(role) == (role in config.roles)
        assert (config.otlp_endpoint, config.trace_ratio) == (
            ("http://collector.observability:4318", 0.25) if name == "everything" else (None, 1.0)
        )
        urls = {
            "everything": "https://s3.example/bucket/prefix",
            "objects by the identity of pods": "http://minio:9000/bucket",
        }
        assert config.object_store_url == urls.get(name)
        assert config.object_store_from_bytes == (1_000_000 if name == "everything" else 65536)


def test_flags_reach_workers_as_a_file_that_they_accept() -> None:
    maps = kinds("everything", "ConfigMap")
    text = cast("dict[str, str]", maps["demo-coproc-flags"]["data"])["flags.json"]
    base = Flags.of(Config(database_url="memory://"))
    flags = parse(text.encode()).flags(base, datetime(2029, 12, 31, tzinfo=UTC))
    assert (flags.batch_window_seconds, flags.maximum_batch, flags.executor) == (0.02, 128, "auto")
    assert flags.plan.rewrites_off == {"column_sums"}
    assert parse(text.encode()).flags(base, datetime(2030, 1, 1, tzinfo=UTC)).plan.shift_semantics == "zero"
    empty = cast("dict[str, str]", kinds("defaults", "ConfigMap")["demo-coproc-flags"]["data"])["flags.json"]
    assert parse(empty.encode()).flags(base, datetime(2030, 1, 1, tzinfo=UTC)) == base
    path = str(cast("dict[str, str]", maps["demo-coproc-config"]["data"])["COPROC_FLAGS_FILE"])
    for made, pod in pods("everything").items():
        if "worker" not in made:
            continue
        mounts = {str(item["mountPath"]): item for item in cast("list[Tree]", at(pod, "containers", 0, "volumeMounts"))}
        mount = mounts[str(Path(path).parent)]
        assert "subPath" not in mount, "a file that is mounted by itself never changes"
        volumes = {str(item["name"]): item for item in cast("list[Tree]", pod["volumes"])}
        assert at(volumes[str(mount["name"])], "configMap", "name") == "demo-coproc-flags"


def test_values_may_hold_exactly_the_flags_of_the_program() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))["properties"]["featureFlags"]["properties"]
    assert set(schema) == set(FlagFile.model_fields)
    assert set(schema["next_plan"]["properties"]) == set(NextPlan.model_fields)
    own = FlagFile.model_json_schema()["properties"]
    for name in ("executor", "strategy", "shift_semantics"):
        (choice, _) = own[name]["anyOf"]
        assert schema[name]["enum"] == choice["enum"], name
    assert set(schema["rewrites"]["properties"]) == set(REWRITES)
    assert schema["rewrites"] == schema["next_plan"]["properties"]["rewrites"]


def test_secrets_stay_references() -> None:
    for pod in pods("everything").values():
        variables = {str(item["name"]): item for item in cast("list[Tree]", at(pod, "containers", 0, "env"))}
        assert "secretKeyRef" in cast("Tree", variables["COPROC_DATABASE_URL"]["valueFrom"])
        for own in ("access", "secret"):
            if at(pod, "containers", 0, "args", 0) == "serve":
                source = at(variables[f"COPROC_OBJECT_STORE_{own.upper()}_KEY"], "valueFrom", "secretKeyRef")
                assert source == {"name": "objects", "key": f"{own}-key"}
    assert "OBJECT_STORE_ACCESS" not in str(render("objects by the identity of pods"))
    for pod in pods("defaults").values():
        assert "OBJECT_STORE" not in str(pod)
    assert not kinds("everything", "Secret")
    api = pods("everything")["demo-coproc-api"]
    mounted = {str(volume["name"]): volume for volume in cast("list[Tree]", api["volumes"])}
    assert at(mounted["tls"], "secret", "secretName") == "certificate"
    assert at(mounted["tokens"], "secret", "secretName") == "tokens"


def test_the_migration_comes_first_and_needs_nothing_of_the_release() -> None:
    (job,) = kinds("everything", "Job").values()
    assert at(job, "metadata", "annotations", "helm.sh/hook") == "pre-install,pre-upgrade"
    pod = cast("Tree", at(job, "spec", "template", "spec"))
    assert at(pod, "containers", 0, "args", 0) == "migrate"
    assert at(pod, "containers", 0, "env", 0, "valueFrom", "secretKeyRef", "name") == "owner"
    assert "serviceAccountName" not in pod
    made = {made for kind in ("ConfigMap", "ServiceAccount") for made in kinds("everything", kind)}
    assert not [name for name in made if f'"{name}"' in json.dumps(pod)]
    assert not kinds("smallest", "Job")


def test_a_changed_setting_rolls_pods_and_a_flag_does_not() -> None:
    def checksum(values: Tree) -> str:
        with helm_python.Chart.load(CHART) as chart:
            files = chart.render({"database": DATABASE, **values}, name="demo")
        (first, *_) = load(files["coproc/templates/deployments.yaml"])
        return str(at(first, "spec", "template", "metadata", "annotations", "checksum/config"))

    plain = checksum({})
    assert checksum({"featureFlags": {"maximum_batch": 1}}) == plain
    traced = checksum({"tracing": {"endpoint": "http://collector:4318"}})
    stored = checksum({"objectStore": {"url": "https://s3.example/bucket"}})
    assert len({plain, checksum({"config": {"attempts": 4}}), checksum({"drainSeconds": 7}), traced, stored}) == 5


def test_workers_scale_on_the_queue_and_servers_on_cpu() -> None:
    scaled = kinds("everything", "ScaledObject")
    assert set(scaled) == {"demo-coproc-worker-cpu", "demo-coproc-worker-gpu"}
    (trigger,) = cast("list[Tree]", at(scaled["demo-coproc-worker-gpu"], "spec", "triggers"))
    assert at(trigger, "metadata", "targetQueryValue") == "1000000"
    assert set(kinds("everything", "HorizontalPodAutoscaler")) == {"demo-coproc-api", "demo-coproc-results"}
    for made, item in kinds("everything", "Deployment").items():
        assert ("replicas" in cast("Tree", item["spec"])) == made.endswith("listener"), made
    assert at(kinds("only GPUs", "Deployment")["demo-coproc-worker-gpu"], "spec", "replicas") == 3


async def test_the_query_of_the_autoscaler_runs(database_url: str) -> None:
    from coproc.store.connection import TrioConnection  # noqa: PLC0415 - of this test alone

    trigger = at(kinds("everything", "ScaledObject")["demo-coproc-worker-cpu"], "spec", "triggers", 0, "metadata")
    async with await TrioConnection.connect(database_url, autocommit=True) as connection:
        cursor = await connection.execute(str(at(trigger, "query")).encode())
        assert await cursor.fetchall() == [(0,)]


def test_selectors_find_exactly_their_pods() -> None:
    for name in MATRIX:
        labels = [
            cast("Tree", at(item, "spec", "template", "metadata", "labels"))
            for item in kinds(name, "Deployment").values()
        ]
        for kind, path in (("Deployment", "matchLabels"), ("PodDisruptionBudget", "matchLabels")):
            for made, item in kinds(name, kind).items():
                chosen = cast("Tree", at(item, "spec", "selector", path))
                found = [pod for pod in labels if chosen.items() <= pod.items()]
                assert [made.removeprefix("demo-coproc-")] == [pod["app.kubernetes.io/component"] for pod in found]
        for made, item in kinds(name, "Service").items():
            chosen = cast("Tree", at(item, "spec", "selector"))
            count = len([pod for pod in labels if chosen.items() <= pod.items()])
            assert count == (len(labels) if made.endswith("-metrics") else 1)


def test_policies_leave_open_what_is_needed() -> None:
    policies = kinds("everything", "NetworkPolicy")
    (own,) = cast("list[Tree]", at(policies["demo-coproc-api"], "spec", "ingress"))
    assert own == {
        "ports": [{"port": 50051, "protocol": "TCP"}],
        "from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}],
    }
    egress = cast("list[Tree]", at(policies["demo-coproc"], "spec", "egress"))
    ports = [cast("Tree", port)["port"] for rule in egress for port in cast("list[Value]", rule["ports"])]
    assert ports == [53, 53, 5432, 443, 9000, 4317, 4318, 8546]
    assert egress[1]["to"] == [{"ipBlock": {"cidr": "10.0.0.0/24"}}]
    assert egress[2]["to"] == [{"ipBlock": {"cidr": "10.2.0.0/24"}}]
    assert "443" not in str(kinds("defaults", "NetworkPolicy")["demo-coproc"])


def test_chains_are_followed_by_the_listener_and_known_to_the_api_as_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """URLs of nodes hold keys: they are in no object that the chart makes."""
    having: dict[str, Value] = {}
    for made, pod in pods("everything").items():
        for item in cast("list[Tree]", at(pod, "containers", 0, "env")):
            if item["name"] == "COPROC_CHAINS":
                having[made] = at(item, "valueFrom", "secretKeyRef")
    reference = {"name": "chains", "key": "list"}
    assert having == {"demo-coproc-api": reference, "demo-coproc-listener": reference}
    address = "0x" + "ab" * 20
    chain = {"chain_id": 1, "urls": ["wss://node/key"], "executor": address, "acl": address, "key_id": "0" * 64}
    monkeypatch.setenv("COPROC_CHAINS", json.dumps([chain]))
    assert [chain.chain_id for chain in Config(roles="listener", database_url="postgresql://x/y").chains] == [1]
    policy = kinds("everything", "NetworkPolicy")["demo-coproc-listener"]
    assert at(policy, "spec", "podSelector", "matchLabels", "app.kubernetes.io/component") == "listener"
    assert at(policy, "spec", "policyTypes") == ["Egress"]
    assert at(policy, "spec", "egress") == [
        {"ports": [{"port": 8546, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "10.1.0.0/24"}}]}
    ]
    assert not [made for name in ("defaults", "smallest") for made in kinds(name, "Deployment") if "listener" in made]


@pytest.mark.parametrize("name", MATRIX)
def test_evictions_leave_one_pod_of_each_role_and_may_take_one(name: str) -> None:
    """A budget of none would hold up every upgrade of a node; pods that are ill may always go."""
    asked = cast("Tree", MATRIX[name].get("roles", {}))
    budgets = kinds(name, "PodDisruptionBudget")
    keys = {"api": "api", "results": "results", "worker-cpu": "workerCpu", "worker-gpu": "workerGpu"}
    expected = {
        made
        for made in kinds(name, "Deployment")
        for role in [cast("Tree", asked.get(keys.get(made.removeprefix("demo-coproc-"), "listener"), {}))]
        if at(role.get("pdb", {"enabled": True}), "enabled")
    }
    assert set(budgets) == expected
    for made, item in budgets.items():
        spec = cast("Tree", item["spec"])
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        assert spec["maxUnavailable"] == ("25%" if made.endswith("worker-cpu") else 1)
        assert "minAvailable" not in spec


@pytest.mark.parametrize("name", MATRIX)
def test_pods_of_a_role_are_spread_over_zones_and_nodes(name: str) -> None:
    for made, item in kinds(name, "Deployment").items():
        pod = cast("Tree", at(item, "spec", "template", "spec"))
        if name == "smallest":
            assert "topologySpreadConstraints" not in pod
            continue
        constraints = cast("list[Tree]", pod["topologySpreadConstraints"])
        assert [one["topologyKey"] for one in constraints] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        for one in constraints:
            assert (one["maxSkew"], one["whenUnsatisfiable"]) == (1, "ScheduleAnyway")
            assert one["matchLabelKeys"] == ["pod-template-hash"], "pods of the release before do not count"
            assert at(one, "labelSelector") == at(item, "spec", "selector"), made


def test_prometheus_finds_the_figures_of_every_pod() -> None:
    """The monitor's selector finds one service, whose port is the one that every pod names so."""
    assert not kinds("defaults", "ServiceMonitor")
    (monitor,) = kinds("everything", "ServiceMonitor").values()
    assert at(monitor, "metadata", "labels", "release") == "prometheus"
    assert at(monitor, "spec", "namespaceSelector", "matchNames") == ["fhe"]
    chosen = cast("Tree", at(monitor, "spec", "selector", "matchLabels"))
    services = kinds("everything", "Service").values()
    (service,) = (item for item in services if chosen.items() <= cast("Tree", at(item, "metadata", "labels")).items())
    (endpoint,) = cast("list[Tree]", at(monitor, "spec", "endpoints"))
    (port,) = cast("list[Tree]", at(service, "spec", "ports"))
    assert (endpoint["port"], endpoint["path"], endpoint["interval"]) == (port["name"], "/metrics", "30s")
    assert at(service, "spec", "publishNotReadyAddresses") is True
    deployments = kinds("everything", "Deployment").values()
    assert len(deployments) == 5
    wanted = cast("Tree", at(service, "spec", "selector"))
    for item in deployments:
        assert wanted.items() <= cast("Tree", at(item, "spec", "template", "metadata", "labels")).items()
        ports = cast("list[Tree]", at(item, "spec", "template", "spec", "containers", 0, "ports"))
        assert port["targetPort"] in [own["name"] for own in ports]


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({}, "existingSecret"),
        ({"database": DATABASE, "drainSecond": 5}, "drainSecond"),
        ({"database": DATABASE, "drainSeconds": "soon"}, "drainSeconds"),
        ({"database": DATABASE, "config": {"database_url": "postgresql://secret"}}, "database_url"),
        ({"database": DATABASE, "image": {"digest": "latest"}}, "digest"),
        (
            {"database": DATABASE, "roles": {"workerCpu": {"hpa": {"enabled": True}, "keda": {"enabled": True}}}},
            "hpa or keda",
        ),
        ({"database": DATABASE, "roles": {"listener": {"enabled": True}}}, "chains.existingSecret"),
        ({"database": DATABASE, "roles": {"listener": {"hpa": {"enabled": True}}}}, "hpa"),
        ({"database": DATABASE, "tracing": {"endpoint": "collector:4318"}}, "endpoint"),
        ({"database": DATABASE, "tracing": {"endpoint": "http://user:word@collector:4318"}}, "endpoint"),
        ({"database": DATABASE, "objectStore": {"url": "s3://bucket"}}, "url"),
        ({"database": DATABASE, "objectStore": {"url": "https://key:word@host/bucket"}}, "url"),
        ({"database": DATABASE, "config": {"object_store_secret_key": "hush"}}, "object_store_secret_key"),
        ({"database": DATABASE, "config": {"chains": "[]"}}, "chains"),
        ({"database": DATABASE, "config": {"flags_file": "x.json"}}, "flags_file"),
        ({"database": DATABASE, "featureFlags": {"colour": 1}}, "colour"),
        ({"database": DATABASE, "featureFlags": {"rewrites": {"column_sum": False}}}, "column_sum"),
        ({"database": DATABASE, "featureFlags": {"executor": "reference"}}, "executor"),
        ({"database": DATABASE, "featureFlags": {"next_plan": {"effective_at": "soon"}}}, "effective_at"),
    ],
)
def test_wrong_values_are_refused(values: Tree, fault: str) -> None:
    with helm_python.Chart.load(CHART) as chart, pytest.raises(helm_python.HelmError, match=fault):
        chart.render(values, name="demo")


def test_alerts_and_dashboards_of_the_chart_are_shipped() -> None:
    for pattern, kind, count in (
        ("alerts/*.yaml", "PrometheusRule", len(kinds("everything", "PrometheusRule"))),
        (
            "dashboards/*.json",
            "ConfigMap",
            len([name for name in kinds("everything", "ConfigMap") if "dashboard" in name]),
        ),
    ):
        assert count == len(list(CHART.glob(pattern))), kind
