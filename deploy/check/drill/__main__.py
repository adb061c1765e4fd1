"""The drill of ../../drill.sh: a minimal kubelet for the real binary.

    PYTHONPATH=gen python drill BINARY MODEL_DIR DIRECTORY

The directory has the rendered manifests, and in old and new what clients/certificates.sh makes. What a pod's volume
would bring, the model, is a directory that appears when the drill wants it to. The server runs as the user of its
manifest, without capabilities, and with nothing but the manifest's environment. One namespace is the node, from which
probes come; each pod has another.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from container import Files
from freeze import freeze
from network import NODE, lay_network, take_network_away
from rollout import rollout
from sealed import Caller, sealed
from sidecar import gate, overlap


def main():
    if os.environ.get("ASSAY_DRILL") == "node":
        drill(*sys.argv[1:])
        return
    try:
        lay_network()
        inside = ["ip", "netns", "exec", NODE, sys.executable, *sys.argv]
        sys.exit(subprocess.run(inside, env={**os.environ, "ASSAY_DRILL": "node"}).returncode)
    finally:
        take_network_away()


def drill(binary, model, directory):
    with tempfile.TemporaryDirectory(prefix="assay-drill.") as work:
        Path(work).chmod(0o755)
        files = Files(Path(work), binary, model)
        gate(Path(directory, "sidecar-overlays-gate.yaml"), files)
        overlap(Path(directory, "sidecar-overlays-overlap.yaml"), files)
        rollout(Path(directory, "standalone-base.yaml"), files)
        freeze(Path(directory, "standalone-base.yaml"), files)
        callers = [Caller(Path(directory, name)) for name in ("old", "new")]
        sealed(Path(directory, "standalone-sealed.yaml"), files, *callers)
    print("drill passed")


if __name__ == "__main__":
    main()
