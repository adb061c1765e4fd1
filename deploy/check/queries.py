"""Checks the metric names and labels of every query of dashboard, alerts and autoscalers against /metrics of a server.

    python queries.py METRICS_FILE RULES_FILE RENDERED_FILE...

Writes the queries as recording rules, for promtool to read them too. Also holds the alerts to their runbooks and tests.
"""

import json
import re
import sys
from pathlib import Path

import promql_parser
import yaml

DEPLOY = Path(__file__).parents[1]
# What Prometheus puts on what it scrapes, on Kubernetes.
TARGET_LABELS = {"namespace", "pod", "container", "instance", "job"}
# Prometheus' own.
FOREIGN = {"up": set()}
VARIABLES = {
    "$__rate_interval": "5m",
    "$namespace": "assay",
    "$pod": "assay-0",
}


def main():
    metrics, rules, *rendered = sys.argv[1:]
    served = read_metrics(Path(metrics).read_text())
    alerts = read_alerts()
    queries = {**dashboard(), **{f"alert {rule['alert']}": rule["expr"] for rule in alerts}, **autoscalers(rendered)}
    mistakes = [f"{where}: {mistake}" for where, query in queries.items() for mistake in check(query, served)]
    mistakes += [*runbooks(alerts), *tests(alerts)]
    for mistake in mistakes:
        print(mistake, file=sys.stderr)
    if mistakes:
        sys.exit(f"{len(mistakes)} mistakes")
    write_rules(Path(rules), queries.values())
    used = {name for query in queries.values() for name, _ in selectors(promql_parser.parse(query))}
    unused = sorted({family(name, served) for name in served} - {family(name, served) for name in used})
    print(f"{len(queries)} queries use {len(used)} series, all of which are served; not looked at: {unused or 'none'}")


def read_metrics(text):
    """Labels by name of a series."""
    served = dict(FOREIGN)
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, labels = re.match(r"(\w+)(?:\{(.*)\})? ", line).groups()
        served.setdefault(name, set()).update(re.findall(r'(\w+)="', labels or ""))
    return served


def family(name, served):
    base = re.sub("_(bucket|sum|count)$", "", name)
    return base if base + "_bucket" in served else name


# Where queries are


def dashboard():
    board = json.loads((DEPLOY / "grafana" / "assay.json").read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)), "panels share an id"
    queries = {}
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            queries[f"panel {panel['title']} {target['refId']}"] = filled(target["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            selector, _ = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
            queries[f"variable {variable['name']}"] = filled(selector)
    return queries


def filled(query):
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert not re.search(r"\$[a-zA-Z_{]", query), query
    return query


def read_alerts():
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def autoscalers(rendered):
    queries = {}
    for file in rendered:
        for document in filter(None, yaml.safe_load_all(Path(file).read_text())):
            where = f"{Path(file).stem} {document['kind']}"
            if document["kind"] == "HorizontalPodAutoscaler":
                for metric in document["spec"]["metrics"]:
                    queries[where] = metric["pods"]["metric"]["name"]
            elif document["kind"] == "ScaledObject":
                for trigger in document["spec"]["triggers"]:
                    queries[where] = trigger["metadata"]["query"]
    return queries


# What is asked of them


def check(query, served):
    tree = promql_parser.parse(query)
    for name, labels in selectors(tree):
        if name not in served:
            yield f"{name} is not served"
        elif labels - served[name] - TARGET_LABELS:
            yield f"{name} has no label {sorted(labels - served[name] - TARGET_LABELS)}"
    known = TARGET_LABELS.union(*(served.get(name, set()) for name, _ in selectors(tree)))
    for labels in re.findall(r"\b(?:by|on|without) \(([^)]*)\)", query):
        for label in filter(None, map(str.strip, labels.split(","))):
            if label not in known:
                yield f"there is no label {label}"


def selectors(node):
    """Name and labels of every vector in a tree."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name, {matcher.name for matcher in node.matchers.matchers}
        return
    for name in ("lhs", "rhs", "expr", "vector_selector", "param", "args"):
        part = getattr(node, name, None)
        for child in part if isinstance(part, list) else [part]:
            if child is not None and not isinstance(child, (str, float)):
                yield from selectors(child)


def runbooks(alerts):
    for rule in alerts:
        file, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ (.*)$", (DEPLOY.parent / file).read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
        if anchor not in anchors:
            yield f"alert {rule['alert']}: {file} has no heading {anchor}"


def tests(alerts):
    text = (DEPLOY / "prometheus" / "alerts_test.yaml").read_text()
    tested = set(re.findall(r'alertname="(\w+)"', text))
    return [f"alert {rule['alert']} is not tested" for rule in alerts if rule["alert"] not in tested]


def write_rules(target, queries):
    rules = [{"record": f"check:{n}", "expr": query} for n, query in enumerate(queries)]
    target.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))


if __name__ == "__main__":
    main()
