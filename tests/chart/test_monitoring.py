"""Alerts, dashboards and the runbook speak of figures that there are, and alerts fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, cast

import helm_python
import pytest
import yaml

from tests.chart.promql import check, known
from tests.chart.test_chart import CHART, DATABASE, at, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chart.custom_resources import Tree, Value

ROOT = CHART.parent
RULES = CHART / "alerts" / "coproc.yaml"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text("utf-8")
METRICS = (ROOT / "docs" / "metrics.md").read_text("utf-8")
PROMTOOL = ROOT / ".cache" / "promtool"
SERIES = known()


def alerts() -> dict[str, Tree]:
    groups = cast("list[Tree]", cast("Tree", yaml.safe_load(RULES.read_text("utf-8")))["groups"])
    rules = [rule for group in groups for rule in cast("list[Tree]", group["rules"])]
    found = {str(rule["alert"]): rule for rule in rules}
    assert len(found) == len(rules)
    return found


ALERTS = alerts()


def panels() -> Iterator[Tree]:
    for path in (CHART / "dashboards").glob("*.json"):
        yield from cast("list[Tree]", json.loads(path.read_text("utf-8"))["panels"])


def test_wrong_expressions_would_be_found() -> None:
    for expression, fault in (
        ("coproc_groups_done", "there is no coproc_groups_done"),
        ("coproc_groups_done_total", "coproc_groups_done_total is a counter"),
        ("rate(coproc_ready[5m])", "coproc_ready is no counter"),
        ('coproc_ready{tenant="x"}', "coproc_ready has no label tenant"),
        ("sum by (tenant) (coproc_ready)", "nothing here has a label tenant"),
    ):
        assert check(expression, SERIES) == [fault]
    assert check("sum(", SERIES)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_asks_for_what_there_is_and_leads_to_the_runbook(name: str) -> None:
    rule = ALERTS[name]
    assert check(str(rule["expr"]), SERIES) == []
    assert at(rule, "labels", "severity") in {"critical", "warning", "info"}
    notes = cast("dict[str, str]", rule["annotations"])
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert notes["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    section = re.search(rf"^### {name}\n(.+?)(?=^###? |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert section is not None, "every alert has a section"
    assert len(section[1].split()) > 15, "which says what to do"


def test_the_runbook_knows_no_other_alerts_nor_figures() -> None:
    headings = re.findall(r"^### (Coproc\w+)$", RUNBOOK, re.MULTILINE)
    assert headings == list(ALERTS), "in the order of the rules"
    assert set(re.findall(r"\bCoproc[A-Z]\w+", RUNBOOK)) <= ALERTS.keys()
    names = SERIES.keys() | {name.rpartition("_")[0] for name in SERIES if name.endswith("_bucket")}
    for document in sorted((ROOT / "docs").glob("*.md")):
        text = document.read_text("utf-8")
        for mentioned in re.findall(r"\b(coproc_[a-z_]+[a-z])\b", text):
            assert mentioned in names, f"{document.name}: {mentioned}"


def test_every_figure_is_documented() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.+) \|$", METRICS, re.MULTILINE)
    assert rows == sorted(rows)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}
    expected: dict[str, tuple[str, set[str]]] = {}
    for name, series in SERIES.items():
        if name.endswith("_bucket"):
            expected[name.removesuffix("_bucket")] = ("histogram", set(series.labels) - {"le"})
        elif f"{name.rpartition('_')[0]}_bucket" not in SERIES and not name.startswith("process_"):
            expected[name] = ("counter" if series.is_counter else "gauge", set(series.labels))
    assert documented == expected


def test_panels_ask_for_what_there_is() -> None:
    found = list(panels())
    assert len({str(panel["id"]) for panel in found}) == len(found)
    asked = ""
    for panel in found:
        for target in cast("list[Tree]", panel.get("targets", [])):
            expression = str(target["expr"]).replace("$__rate_interval", "5m").replace("$namespace", ".*")
            assert "$" not in expression
            assert check(expression, SERIES) == [], panel["title"]
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            asked += expression
            for label in re.findall(r"{{(\w+)}}", str(target["legendFormat"])):
                assert re.search(rf"\b{label}\b", expression) or any(
                    label in series.labels for name, series in SERIES.items() if name in expression
                ), panel["title"]
    for figure in ("queue_groups", "queue_bootstraps", "executor_bootstraps_total", "executor_lane_slots_total"):
        assert f"coproc_{figure}" in asked


def test_panels_do_not_cover_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = cast("dict[str, int]", panel["gridPos"])
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_chart_ships_them_with_the_operators_address_of_the_runbook() -> None:
    values: Tree = {"enabled": True, "runbookUrl": "https://wiki.example/coproc"}
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(
            {"database": DATABASE, "prometheusRule": values, "dashboards": {"enabled": True}}, name="x"
        )
    made = load(files["coproc/templates/monitoring.yaml"])
    (rules,) = [item for item in made if item["kind"] == "PrometheusRule"]
    shipped = [
        rule for group in cast("list[Tree]", at(rules, "spec", "groups")) for rule in cast("list[Tree]", group["rules"])
    ]
    assert [rule["alert"] for rule in shipped] == list(ALERTS)
    for rule in shipped:
        name = str(rule["alert"])
        assert at(rule, "annotations", "runbook_url") == f"https://wiki.example/coproc#{name.lower()}"
        assert rule["expr"] == ALERTS[name]["expr"]
        assert at(rule, "annotations", "summary") == at(ALERTS[name], "annotations", "summary"), "its braces are kept"
    (board,) = [item for item in made if item["kind"] == "ConfigMap"]
    (text,) = cast("dict[str, str]", board["data"]).values()
    assert json.loads(text) == json.loads((CHART / "dashboards" / "coproc.json").read_text("utf-8"))


# ------------------------------------------------------------------------------------------ rules, run by Prometheus

HEALTHY = {
    'coproc_build_info{namespace="fhe",instance="a"}': "1x80",
    'coproc_ready{namespace="fhe",instance="a"}': "1x80",
    'coproc_draining{namespace="fhe",instance="a"}': "0x80",
    'coproc_actor_restarts_total{namespace="fhe",instance="a",actor="store"}': "1x80",
    'coproc_actor_up{namespace="fhe",instance="a",actor="gpu"}': "1x80",
    'coproc_actor_up{namespace="fhe",instance="a",actor="collector"}': "1x80",
    'coproc_actor_up{namespace="fhe",instance="a",actor="chain-1"}': "1x80",
    'coproc_event_loop_lag_seconds_bucket{namespace="fhe",instance="a",le="0.01"}': "0+60x80",
    'coproc_event_loop_lag_seconds_bucket{namespace="fhe",instance="a",le="+Inf"}': "0+60x80",
    'coproc_flags_refused{namespace="fhe",instance="a"}': "0x80",
    'coproc_flag_info{namespace="fhe",instance="a",flag="strategy",value="throughput"}': "1x80",
    'coproc_flag_info{namespace="fhe",instance="b",flag="strategy",value="throughput"}': "1x80",
    'coproc_flag_info{namespace="fhe",instance="a",flag="maximum_batch",value="64"}': "1x80",
    'coproc_flag_info{namespace="fhe",instance="b",flag="maximum_batch",value="32"}': "1x80",
    'coproc_breaker_state{namespace="fhe",instance="a",dependency="database",state="closed"}': "1x80",
    'coproc_breaker_state{namespace="fhe",instance="a",dependency="object_store",state="closed"}': "1x80",
    'coproc_database_connections{namespace="fhe",instance="a",state="in_use"}': "2x80",
    'coproc_database_connections_limit{namespace="fhe",instance="a"}': "8x80",
    'coproc_store_operation_duration_seconds_bucket{namespace="fhe",operation="claim",le="0.1"}': "0+60x80",
    'coproc_store_operation_duration_seconds_bucket{namespace="fhe",operation="claim",le="30"}': "0+60x80",
    'coproc_store_operation_duration_seconds_bucket{namespace="fhe",operation="claim",le="+Inf"}': "0+60x80",
    'coproc_retention_failures_total{namespace="fhe",instance="a"}': "0x80",
    'coproc_queue_groups{namespace="fhe",tenant="t",state="ready"}': "5x80",
    'coproc_queue_oldest_age_seconds{namespace="fhe",tenant="t",state="ready"}': "9x80",
    'coproc_queue_bootstraps{namespace="fhe",tenant="t",state="ready"}': "1000x80",
    'coproc_executor_bootstraps_total{namespace="fhe",instance="a",executor="cpu"}': "0+6000x80",
    'coproc_executor_failures_total{namespace="fhe",instance="a",executor="cpu"}': "0x80",
    'coproc_result_latency_seconds_bucket{namespace="fhe",le="10"}': "0+60x80",
    'coproc_result_latency_seconds_bucket{namespace="fhe",le="300"}': "0+60x80",
    'coproc_result_latency_seconds_bucket{namespace="fhe",le="+Inf"}': "0+60x80",
    'coproc_groups_done_total{namespace="fhe",instance="a"}': "0+60x80",
    'coproc_groups_failed_total{namespace="fhe",instance="a"}': "0+1x80",
    'coproc_leases_lost_total{namespace="fhe",instance="a"}': "0x80",
    'coproc_lease_takeovers_total{namespace="fhe",instance="a"}': "0x80",
    'coproc_grpc_call_duration_seconds_count{namespace="fhe",method="GetStatus",status="OK"}': "0+600x80",
    'coproc_grpc_call_duration_seconds_count{namespace="fhe",method="GetStatus",status="INTERNAL"}': "0x80",
    'coproc_grpc_call_duration_seconds_count{namespace="fhe",method="GetStatus",status="RESOURCE_EXHAUSTED"}': "0x80",
    'coproc_grpc_call_duration_seconds_bucket{namespace="fhe",method="GetStatus",le="0.1"}': "0+600x80",
    'coproc_grpc_call_duration_seconds_bucket{namespace="fhe",method="GetStatus",le="30"}': "0+600x80",
    'coproc_grpc_call_duration_seconds_bucket{namespace="fhe",method="GetStatus",le="+Inf"}': "0+600x80",
    'coproc_subscribers_closed_total{namespace="fhe",instance="a",code="1013"}': "0x80",
    'coproc_chain_head_block{namespace="fhe",instance="a",chain_id="1"}': "100+5x80",
    'coproc_chain_block{namespace="fhe",instance="a",chain_id="1"}': "99+5x80",
    'coproc_chain_faults_total{namespace="fhe",instance="a",chain_id="1"}': "0x80",
}
"""A service that is well, a sample a minute."""


CALLS = 'coproc_grpc_call_duration_seconds_count{namespace="fhe",method="GetStatus",status="'


def only(prefix: str) -> str:
    """Find a series by how it begins."""
    (found,) = [series for series in HEALTHY if series.startswith(prefix)]
    return found


TROUBLE: dict[str, dict[str, str | None]] = {
    "CoprocAbsent": dict.fromkeys(HEALTHY),
    "CoprocNotReady": {only("coproc_ready"): "0x80"},
    "CoprocActorRestarts": {only("coproc_actor_restarts_total"): "0+1x80"},
    "CoprocEventLoopLate": {
        only('coproc_event_loop_lag_seconds_bucket{namespace="fhe",instance="a",le="0.01"}'): "0+30x80"
    }
    | {'coproc_event_loop_lag_seconds_bucket{namespace="fhe",instance="a",le="2.5"}': "0+60x80"},
    "CoprocFlagsRefused": {only("coproc_flags_refused"): "1x80"},
    "CoprocPlansDiffer": {
        only('coproc_flag_info{namespace="fhe",instance="b",flag="strategy"'): None,
        'coproc_flag_info{namespace="fhe",instance="b",flag="strategy",value="latency"}': "1x80",
    },
    "CoprocDatabaseAway": {only('coproc_breaker_state{namespace="fhe",instance="a",dependency="database"'): "0x80"},
    "CoprocObjectStoreAway": {
        only('coproc_breaker_state{namespace="fhe",instance="a",dependency="object_store"'): "0x80"
    },
    "CoprocDatabaseConnectionsUsedUp": {only("coproc_database_connections{"): "8x80"},
    "CoprocStoreSlow": {
        only('coproc_store_operation_duration_seconds_bucket{namespace="fhe",operation="claim",le="0.1"}'): "0+1x80"
    },
    "CoprocGpuAway": {only('coproc_actor_up{namespace="fhe",instance="a",actor="gpu"'): "0x80"},
    "CoprocTracesNotSent": {only('coproc_actor_up{namespace="fhe",instance="a",actor="collector"'): "0x80"},
    "CoprocRetentionFails": {only("coproc_retention_failures_total"): "0+1x80"},
    "CoprocNothingComputed": {only("coproc_executor_bootstraps_total"): None},
    "CoprocWorkWaits": {only("coproc_queue_oldest_age_seconds"): "400+60x80"},
    "CoprocBacklogLong": {only("coproc_queue_bootstraps"): "500000x80"},
    "CoprocResultsSlow": {only('coproc_result_latency_seconds_bucket{namespace="fhe",le="10"}'): "0+30x80"},
    "CoprocComputationsFail": {only("coproc_groups_failed_total"): "0+30x80"},
    "CoprocExecutorFails": {only("coproc_executor_failures_total"): "0+1x80"},
    "CoprocLeasesLost": {only("coproc_leases_lost_total"): "0+1x80"},
    "CoprocLeaseTakeovers": {only("coproc_lease_takeovers_total"): "0+1x80"},
    "CoprocCallsFail": {only(f"{CALLS}INTERNAL"): "0+60x80"},
    "CoprocCallsRefused": {
        only(
            'coproc_grpc_call_duration_seconds_count{namespace="fhe",method="GetStatus",status="RESOURCE_EXHAUSTED"'
        ): ("0+60x80")
    },
    "CoprocCallsSlow": {
        only('coproc_grpc_call_duration_seconds_bucket{namespace="fhe",method="GetStatus",le="0.1"}'): "0+1x80"
    },
    "CoprocSubscribersCut": {only("coproc_subscribers_closed_total"): "0+1x80"},
    "CoprocChainNotFollowed": {only('coproc_actor_up{namespace="fhe",instance="a",actor="chain-1"'): "0x80"},
    "CoprocChainBehind": {only("coproc_chain_block"): "50+5x80"},
    "CoprocChainEventsMakeNoSense": {only("coproc_chain_faults_total"): "0+1x80"},
}


def scenario(changes: dict[str, str | None], firing: list[str]) -> Tree:
    """Say which alerts fire after 76 minutes of some series, and that the others do not."""
    series = {name: values for name, values in (HEALTHY | changes).items() if values is not None}
    samples: list[Value] = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "76m",
                "exp_samples": samples,
            }
        ],
    }


def test_every_alert_has_its_trouble() -> None:
    assert TROUBLE.keys() == ALERTS.keys()
    for changes in TROUBLE.values():
        for series in HEALTHY | changes:
            name = series.partition("{")[0]
            labels = set(re.findall(r"(\w+)=", series))
            assert labels <= SERIES[name].labels | {"namespace", "instance"}, series


@pytest.mark.skipif(
    not PROMTOOL.exists(), reason="promtool (apt-get download prometheus, as make test does) is not there"
)
def test_each_alert_fires_in_its_trouble_alone(tmp_path: Path) -> None:
    checked = subprocess.run([PROMTOOL, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    compose = (ROOT / "deploy/compose/prometheus.yaml").read_text("utf-8")
    config = tmp_path / "prometheus.yaml"
    config.write_text(compose.replace("/etc/prometheus/alerts/*.yaml", str(RULES)), "utf-8")
    checked = subprocess.run([PROMTOOL, "check", "config", config], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout.count(f"{len(ALERTS)} rules")) == (0, 1), checked.stdout + checked.stderr
    tests: list[Value] = [scenario({}, []), *(scenario(changes, [name]) for name, changes in TROUBLE.items())]
    file = tmp_path / "tests.yaml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "2m", "tests": tests}), "utf-8")
    ended = subprocess.run([PROMTOOL, "test", "rules", file], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
