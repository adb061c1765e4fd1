"""Processes as containers, and files as images and volumes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

APP = Path(__file__).parents[2] / "kubernetes" / "sidecar" / "app" / "app.py"


class Files:
    """What images and volumes would bring, where the user of the manifests can read it."""

    def __init__(self, work, binary, model):
        self.work = work
        self.binary = work / "assay"
        shutil.copy(binary, self.binary)
        self.source = work / "source"
        shutil.copytree(model, self.source, copy_function=copy_readable)
        self.volumes = 0

    def volume(self):
        """Where a model will be."""
        self.volumes += 1
        return self.work / f"volume-{self.volumes}"

    def fill(self, volume):
        volume.symlink_to(self.source)


def copy_readable(source, target):
    shutil.copyfile(source, target)
    os.chmod(target, 0o644)


class Container:
    def __init__(self, spec, pod):
        self.spec, self.pod, self.name = spec, pod, spec["name"]
        self.log = open(pod.files.work / f"{pod.namespace}-{self.name}.log", "w+")
        self.process = None
        self.started_at = self.told_at = self.ended_at = None

    def start(self):
        env = {variable["name"]: variable["value"] for variable in self.spec.get("env", [])}
        if self.name == "assay":
            env.pop("ASSAY_CACHE_DIR", None)
            if self.pod.secrets:
                env = {name: self.pod.secrets.path(value) for name, value in env.items()}
            env["ASSAY_MODEL"] = str(self.pod.volume)
            command = [*confined(self.pod.spec["securityContext"]), str(self.pod.files.binary), *self.spec.get("args", [])]
        else:
            env["PYTHONPATH"] = os.environ["PYTHONPATH"]
            command = [sys.executable, str(APP)]
        command = [shutil.which("ip"), "netns", "exec", self.pod.namespace, *command]
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=self.log)
        self.started_at = time.monotonic()

    def tell_to_stop(self):
        self.told_at = time.monotonic()
        self.process.send_signal(signal.SIGTERM)

    def wait(self, deadline):
        try:
            self.process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} outlived the grace and would be killed") from None
        self.ended_at = time.monotonic()
        assert self.process.returncode == 0, f"{self.name} ended with {self.process.returncode}: {self.text()}"

    def text(self):
        self.log.flush()
        return Path(self.log.name).read_text()


def confined(context):
    user, group = context["runAsUser"], context["runAsGroup"]
    return [
        *[shutil.which("setpriv"), f"--reuid={user}", f"--regid={group}", "--clear-groups"],
        *["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"],
    ]
