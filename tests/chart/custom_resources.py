"""JSON schemas of the custom resources that the chart makes, as far as it uses them.

Written from the public references of the Prometheus operator (monitoring.coreos.com/v1) and of KEDA
(keda.sh/v1alpha1); strict, so that a misspelt field is found. Kubernetes' own objects are checked with its own schemas.
"""

from __future__ import annotations

from typing import Final

import jsonschema

Value = str | int | float | bool | None | list["Value"] | dict[str, "Value"]
Tree = dict[str, Value]
Schema = dict[str, object]


def _object(required: str = "", **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


TEXT: Final[Schema] = {"type": "string", "minLength": 1}
TEXTS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
DURATION: Final[Schema] = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$"}

SPECIFICATIONS: Final[dict[str, Schema]] = {
    "ServiceMonitor": _object(
        "selector endpoints",
        selector=_object("matchLabels", matchLabels=TEXTS),
        namespaceSelector=_object(matchNames=_list(TEXT)),
        endpoints=_list(
            _object(
                "port",
                port=TEXT,
                path=TEXT,
                interval=DURATION,
                relabelings=_list(_object(sourceLabels=_list(TEXT), targetLabel=TEXT)),
            )
        ),
    ),
    "PrometheusRule": _object(
        "groups",
        groups=_list(
            _object(
                "name rules",
                name=TEXT,
                interval=DURATION,
                rules=_list(
                    {
                        "oneOf": [
                            _object(
                                "alert expr",
                                alert=TEXT,
                                expr=TEXT,
                                **{"for": DURATION},
                                keep_firing_for=DURATION,
                                labels=TEXTS,
                                annotations=TEXTS,
                            ),
                            _object("record expr", record=TEXT, expr=TEXT, labels=TEXTS),
                        ]
                    }
                ),
            )
        ),
    ),
    "ScaledObject": _object(
        "scaleTargetRef triggers",
        scaleTargetRef=_object("name", name=TEXT),
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        pollingInterval=COUNT,
        cooldownPeriod=COUNT,
        fallback=_object("failureThreshold replicas", failureThreshold=COUNT, replicas=COUNT),
        triggers=_list(
            _object(
                "type metadata",
                type=TEXT,
                metricType={"enum": ["AverageValue", "Value"]},
                authenticationRef=_object("name", name=TEXT),
                metadata=TEXTS,
            )
        ),
    ),
    "TriggerAuthentication": _object(
        secretTargetRef=_list(_object("parameter name key", parameter=TEXT, name=TEXT, key=TEXT)),
    ),
}
VERSIONS: Final = {
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "ScaledObject": "keda.sh/v1alpha1",
    "TriggerAuthentication": "keda.sh/v1alpha1",
}


def check_custom_resource(document: Tree) -> None:
    """Raise AssertionError, saying where and what, for an object that its operator would refuse or ignore."""
    kind = str(document["kind"])
    metadata = _object("name", name=TEXT, labels=TEXTS, annotations=TEXTS)
    schema = _object(
        "apiVersion kind metadata spec",
        apiVersion={"const": VERSIONS[kind]},
        kind={"const": kind},
        metadata=metadata,
        spec=SPECIFICATIONS[kind],
    )
    try:
        jsonschema.validate(document, schema)
    except jsonschema.ValidationError as error:
        raise AssertionError(f"{kind} {error.json_path}: {error.message}") from error
