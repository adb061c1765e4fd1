"""Checks rendered Kubernetes objects against schemas and project rules, and the settings of Assay with the binary.

    python objects.py BINARY CRD_DIRECTORY FILE...
"""

import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import kubernetes_validate
import yaml
from jsonschema import Draft7Validator

# The oldest that has image volumes, and the newest.
VERSIONS = ("1.33", "1.37")
IMAGE = "registry.example/assay"
USER = 65532
# Settings that name a file of a secret.
SECRET_FILES = [f"ASSAY_{name}" for name in "JUDGE_KEY_FILE TLS_CERT TLS_KEY TLS_CLIENT_CA TOKEN_FILE".split()]
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


def main():
    binary, crds, *files = sys.argv[1:]
    check = Check(binary, read_crds(crds))
    for file in files:
        check.rendering(Path(file).stem, Path(file).read_text())
    for mistake in check.mistakes:
        print(mistake, file=sys.stderr)
    if check.mistakes:
        sys.exit(f"{len(check.mistakes)} errors")
    print(f"{check.objects} objects of {len(files)} renderings, {check.servers} containers of Assay")


# Schemas


def read_crds(directory):
    """Schemas by group, version and kind."""
    schemas = {}
    for file in Path(directory).glob("*.yaml"):
        spec = yaml.safe_load(file.read_text())["spec"]
        for version in spec["versions"]:
            key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
            schemas[key] = closed(version["schema"]["openAPIV3Schema"], top=True)
    return schemas


def closed(schema, top=False):
    """The same schema, but without unknown fields, like the strict validation of the API server."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {name: closed(part) if name != "enum" else part for name, part in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
    open_to_all = top or schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "properties" in schema and schema.get("type") == "object" and not open_to_all:
        schema["additionalProperties"] = False
    return schema


# Rules


class Check:
    def __init__(self, binary, crds):
        self.binary, self.crds = binary, crds
        self.settings = Settings(binary)
        self.file, self.where = "", ""
        self.objects, self.servers, self.mistakes = 0, 0, []

    def wrong(self, mistake):
        self.mistakes.append(f"{self.file}: {self.where}: {mistake}")

    def rendering(self, name, text):
        self.file = name
        documents = [document for document in yaml.safe_load_all(text) if document]
        for document in documents:
            self.object(document)
        self.transport(documents)

    def transport(self, documents):
        """Checks that services and tests match the TLS setting of the serving port."""
        self.where = "all objects"
        pods = [pod for document in documents if (pod := pod_of(document))]
        containers = [container for pod in pods for container in pod.get("initContainers", []) + pod["containers"]]
        tls = any("ASSAY_TLS_CERT" in names(container) for container in containers)
        for service in (document for document in documents if document["kind"] == "Service"):
            said = {port["appProtocol"] for port in service["spec"]["ports"] if "appProtocol" in port}
            wanted = "https" if tls else "kubernetes.io/h2c"
            if said - {wanted}:
                self.wrong(f"{service['metadata']['name']} says {', '.join(said)}, not {wanted}")
        for container in containers:
            args = container.get("args", [])
            if tls and args[:1] == ["healthcheck"] and not any(arg.endswith(":9090") for arg in args):
                self.wrong(f"{container['name']} asks a port with TLS, which healthcheck does not know")

    def object(self, document):
        self.objects += 1
        self.where = f"{document['kind']} {document['metadata']['name']}"
        self.schema(document)
        if pod := pod_of(document):
            self.pod(pod)

    def schema(self, document):
        kind = document["apiVersion"], document["kind"]
        if kind in self.crds:
            for error in Draft7Validator(self.crds[kind]).iter_errors(document):
                self.wrong(f"{error.json_path}: {error.message}")
            return
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                self.wrong(f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
            except (kubernetes_validate.SchemaNotFoundError, kubernetes_validate.VersionNotSupportedError) as error:
                self.wrong(f"Kubernetes {version}: {error.message}")

    def pod(self, pod):
        self.is_confined(pod)
        inits, mains = pod.get("initContainers", []), pod["containers"]
        for container in inits + mains:
            self.container_is_confined(container, pod["securityContext"])
            if re.split("[:@]", container["image"])[0] == IMAGE:
                self.assay(container, container in inits)
                self.secret_files(pod, container)
        servers = [container for container in inits + mains if self.serves(container)]
        for server in servers:
            self.has_time_to_drain(pod, server, sidecar=server in inits)
        pulls = [index for index, container in enumerate(inits) if container.get("args") == ["pull"]]
        if pulls and servers and servers[0] in inits and pulls[0] > inits.index(servers[0]):
            self.wrong("the model is pulled after the server has started")

    def is_confined(self, pod):
        context = pod.get("securityContext", {})
        wanted = {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}}
        for name, value in wanted.items():
            if context.get(name) != value:
                self.wrong(f"securityContext.{name} is {context.get(name)}, not {value}")
        if pod.get("automountServiceAccountToken") is not False:
            self.wrong("it has a token of a service account")

    def container_is_confined(self, container, pod_context):
        context = container.get("securityContext", {})
        wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        for name, value in wanted.items():
            if context.get(name) != value:
                self.wrong(f"{container['name']}: securityContext.{name} is {context.get(name)}, not {value}")
        for name in set(context) & set(pod_context):
            if context[name] != pod_context[name]:
                self.wrong(f"{container['name']}: securityContext.{name} differs from the pod's")

    def serves(self, container):
        return "ASSAY_LISTEN" in names(container)

    def assay(self, container, is_init):
        self.servers += 1
        env = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
        for name in env:
            if name not in self.settings.variables:
                self.wrong(f"{container['name']}: {name} is no setting")
        for mistake in self.settings.refused(env):
            self.wrong(f"{container['name']}: {mistake}")
        self.commands(container)
        if not self.serves(container):
            return
        threads, cores = int(env.get("ASSAY_THREADS", 0)), cpu(container["resources"]["limits"]["cpu"])
        if not 0 < threads < cores:
            self.wrong(f"{threads} threads and {cores} cores leave none to the event loop")
        self.probes(container)
        loopback = env["ASSAY_LISTEN"].startswith("127.0.0.1:")
        if loopback != is_init:
            self.wrong(f"{env['ASSAY_LISTEN']} is not where it is called")
        if is_init and (container.get("restartPolicy") != "Always"):
            self.wrong("it is no sidecar")

    def secret_files(self, pod, container):
        """What a setting names is a file of a secret that the server can read, and that is renewed under it."""
        for variable in container.get("env", []):
            if variable["name"] not in SECRET_FILES:
                continue
            path = Path(variable["value"])
            mount = next((m for m in container["volumeMounts"] if Path(m["mountPath"]) == path.parent), None)
            if not mount:
                self.wrong(f"{container['name']}: {path} is in no volume")
                continue
            if not mount.get("readOnly") or "subPath" in mount:
                self.wrong(f"{container['name']}: {mount['name']} is to be a directory that is read only")
            volume = next(volume for volume in pod["volumes"] if volume["name"] == mount["name"])
            secret = volume.get("secret", {})
            if path.name not in [item["path"] for item in secret.get("items", [{"path": path.name}])]:
                self.wrong(f"{container['name']}: {path} is not among what {mount['name']} has of its secret")
            if secret.get("defaultMode") != 0o440:
                self.wrong(f"{container['name']}: {mount['name']} is no secret for the server's group alone")

    def commands(self, container):
        args = container.get("args", [])
        if args:
            command = [self.binary, args[0], "--help"]
            asked = subprocess.run(command, env={}, capture_output=True, text=True)
            for flag in args[1:]:
                if flag.split("=")[0] not in asked.stdout:
                    self.wrong(f"{container['name']}: {args[0]} has no {flag}")
            if asked.returncode:
                self.wrong(f"{container['name']}: {asked.stderr.splitlines()[0]}")

    def probes(self, container):
        """What is asked is known to the running server by scrape.py."""
        liveness = container["livenessProbe"]["grpc"]
        if liveness.get("service") != "liveness":
            self.wrong("liveness waits for the model")
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            grpc = container.get(name, {}).get("grpc")
            if grpc and grpc["port"] != 9090:
                self.wrong(f"{name} does not ask the admin port")
            if grpc and grpc.get("service") not in (None, "", "liveness"):
                self.wrong(f"{name} asks for {grpc['service']}")

    def has_time_to_drain(self, pod, server, sidecar):
        env = {variable["name"]: variable.get("value") for variable in server["env"]}
        needed = sum(seconds(self.settings.value(env, name)) for name in ("drain_wait", "drain_limit"))
        if sidecar:
            pauses = [c.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0) for c in pod["containers"]]
            needed += max(pauses)
        grace = pod.get("terminationGracePeriodSeconds", 30)
        if grace <= needed:
            self.wrong(f"a grace of {grace} s is not more than the {needed} s of the drain")


def pod_of(document):
    """The spec of its pods, or None where it has none."""
    if document["kind"] == "Deployment":
        return document["spec"]["template"]["spec"]
    return document["spec"] if document["kind"] == "Pod" else None


def names(container):
    return {variable["name"] for variable in container.get("env", [])}


class Settings:
    """What the binary says of its settings."""

    def __init__(self, binary):
        self.binary = binary
        shown = subprocess.run([binary, "config", "show"], env={}, capture_output=True, text=True, check=True).stdout
        self.defaults = dict(re.findall(r'^(\w+) = "(.*)" # default$', shown, re.MULTILINE))
        self.names = re.findall(r"^(?:# )?(\w+) (?:=|is not set)", shown, re.MULTILINE)
        self.variables = {"ASSAY_" + name.upper() for name in self.names}

    def value(self, env, name):
        return env.get("ASSAY_" + name.upper(), self.defaults[name])

    def refused(self, env):
        """Every mistake that the binary finds in an environment."""
        return self.refused_cached(tuple(sorted((name, value or "a=secret") for name, value in env.items())))

    @cache
    def refused_cached(self, pairs):
        env = dict(pairs)
        with tempfile.NamedTemporaryFile("w") as key:
            key.write("key")
            key.flush()
            if "ASSAY_JUDGE_KEY_FILE" in env:
                env["ASSAY_JUDGE_KEY_FILE"] = key.name
            checked = subprocess.run([self.binary, "config", "check"], env=env, capture_output=True, text=True)
        return checked.stderr.splitlines() if checked.returncode else []


def cpu(quantity):
    quantity = str(quantity)
    return int(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def seconds(duration):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", duration).groups()
    return int(number) * SECONDS[unit]


if __name__ == "__main__":
    main()
