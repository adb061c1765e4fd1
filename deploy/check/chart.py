"""Checks the chart: wrong values are rejected, settings match the binary, and README.md documents every value.

    python chart.py BINARY CHART
"""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from objects import Settings

# What the chart sets itself, by values of its own.
OWN = set(
    "listen admin_listen model revision hub_token cache_dir offline threads drain_wait drain_limit judge_url judge_model "
    "judge_key judge_key_file tls_cert tls_key tls_client_ca token_file otlp_endpoint otlp_headers".split()
)
# Values, and a part of what helm says of them.
REFUSED = [
    ("nothing=1", "nothing"),
    ("image.name=assay", "name"),
    ("mode=daemon", "mode"),
    ("threads=0", "threads"),
    ("settings.max_input=64", "max_input"),
    ("settings.listen=0.0.0.0:1", "listen"),
    ("model.source=s3", "source"),
    ("model.source=image", "reference"),
    ("model.source=claim", "claimName"),
    ("judge.url=https://judge.example/v1", "model"),
    ("judge.url=judge.example", "url"),
    ("otlp.endpoint=collector:4317", "endpoint"),
    ("drain.waitSeconds=5s", "waitSeconds"),
    ("image.digest=latest", "digest"),
    ("sidecar.appStarts=late", "appStarts"),
    ("autoscaling.kind=vpa", "kind"),
    ("resources.limits.gpu=1", "gpu"),
    ("tls.enabled=true", "tls/secret/name"),
    ("tls.clientCaSecret.name=c", "tls/clientCaSecret/name"),
    ("tls.enabled=true,tls.secret.name=s,tls.secret.privateKey=a/b", "privateKey"),
    ("tls.secretName=s", "secretName"),
    ("auth.tokensSecret.key=", "key"),
    ("settings.token_file=/tokens", "token_file"),
]


def main():
    binary, chart = sys.argv[1], Path(sys.argv[2])
    schema = json.loads((chart / "values.schema.json").read_text())
    settings = Settings(binary)
    same("settings of the schema", set(schema["properties"]["settings"]["properties"]), set(settings.names) - OWN)
    same("what the chart sets itself", OWN - set(settings.names), set())
    values = yaml.safe_load((chart / "values.yaml").read_text())
    same("values of the schema", set(schema["properties"]) - {"global"}, set(values))
    readme = (chart / "README.md").read_text()
    same("values that README.md leaves out", {name for name in leaves(values) if f"`{name}`" not in readme}, set())
    for given, named in REFUSED:
        refuses(chart, given, named)
    nothing_in_sidecar_mode(chart)
    print(f"the chart refuses {len(REFUSED)} wrong values; {len(settings.names)} settings, {len(list(leaves(values)))} values")


def same(what, left, right):
    if left != right:
        sys.exit(f"{what}: {sorted(left - right)} too many, {sorted(right - left)} missing")


def leaves(values, prefix=""):
    for name, value in values.items():
        path = prefix + name
        # Kubernetes' own, and maps that are the user's, are one value.
        if isinstance(value, dict) and value and path not in ("resources", "networkPolicy.clientLabels"):
            yield from leaves(value, path + ".")
        else:
            yield path


def template(chart, *flags):
    command = ["helm", "template", "release", str(chart), *flags]
    return subprocess.run(command, capture_output=True, text=True)


def refuses(chart, given, named):
    result = template(chart, "--set", given)
    if result.returncode == 0:
        sys.exit(f"{given} is taken")
    if named not in result.stderr:
        sys.exit(f"{given} is rejected, but the error does not mention {named}: {result.stderr}")


def nothing_in_sidecar_mode(chart):
    result = template(chart, "--set", "mode=sidecar,autoscaling.kind=hpa,monitor.kind=pod")
    if result.returncode or any(yaml.safe_load_all(result.stdout)):
        sys.exit(f"the mode sidecar renders objects: {result.stdout}{result.stderr}")


if __name__ == "__main__":
    main()
