"""Envoy, nginx and HAProxy with the example configurations of this directory, on free ports."""

import os
import re
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
# What nginx's own nginx.conf has around the file, where there is no /var and no /run to write to.
NGINX = """
worker_processes 2;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    scgi_temp_path scgi;
    uwsgi_temp_path uwsgi;
    include {example};
}}
"""


class Front:
    """One proxy. `ports` maps those of the examples to those in use."""

    def __init__(self, name, ports, logs):
        self.name, self.directory = name, logs / name
        self.directory.mkdir(exist_ok=True)
        self.address = f"127.0.0.1:{ports[8080]}"
        self.admin = f"127.0.0.1:{ports[9901]}"
        self.log = open(self.directory / "log", "w")
        self.process = None
        example = {"envoy": "envoy.yaml", "nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[name]
        text = (HERE / example).read_text()
        self.example = self.directory / example
        self.example.write_text(re.sub(r"\b\d{4,5}\b", lambda port: str(ports.get(int(port[0]), port[0])), text))

    def commands(self):
        """What tells the version, what checks the configuration, and what serves."""
        match self.name:
            case "envoy":
                envoy = [shutil.which("envoy"), "--concurrency", "2", "--use-dynamic-base-id", "-c", str(self.example)]
                return [envoy[0], "--version"], [*envoy, "--mode", "validate"], envoy
            case "nginx":
                whole = self.directory / "whole.conf"
                whole.write_text(NGINX.format(example=self.example))
                nginx = [shutil.which("nginx"), "-p", f"{self.directory}/", "-c", str(whole), "-e", "stderr"]
                return [nginx[0], "-v"], [*nginx, "-t"], [*nginx, "-g", "daemon off;"]
            case "haproxy":
                haproxy = [shutil.which("haproxy"), "-f", str(self.example)]
                return [haproxy[0], "-v"], [*haproxy, "-c"], [*haproxy, "-db"]

    def start(self):
        """Returns the version. A configuration that its own program doesn't take ends the run."""
        version, check, serve = self.commands()
        said = self.run(version)
        self.run(check)
        self.process = subprocess.Popen(serve, stdout=self.log, stderr=self.log, env=environment(serve[0]))
        return re.search(r"\d+\.\d+\.\d+", said)[0]

    def run(self, command):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(command[0]))
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
        return done.stdout

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


def environment(program):
    """With the libraries that were unpacked beside a program, if it was."""
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, Path(program).parents[2].glob("usr/lib/*-linux-gnu")))}
