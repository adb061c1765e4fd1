"""Secrets, mounted and updated like the kubelet does."""

import os
from pathlib import Path

# Where the manifests have them; here they are below a directory of the pod.
MANIFESTS = "/run/secrets"


class Secrets:
    def __init__(self, root, pod_spec):
        self.root, self.group = root, pod_spec["securityContext"]["fsGroup"]
        volumes = {volume["name"]: volume["secret"] for volume in pod_spec["volumes"] if "secret" in volume}
        mounts = [mount for container in pod_spec["containers"] for mount in container["volumeMounts"]]
        self.mounted = [(mount["mountPath"], volumes[mount["name"]]) for mount in mounts if mount["name"] in volumes]
        self.renewals = 0

    def path(self, value):
        return str(self.root) + value.removeprefix(MANIFESTS) if value.startswith(MANIFESTS) else value

    def write(self, data):
        """Data by secret and key. All files of a mount change at one moment, by the renaming of a link."""
        self.renewals += 1
        for path, volume in self.mounted:
            mount = Path(self.path(path))
            self.fill(mount / f"..{self.renewals}", volume, data[volume["secretName"]])
            (mount / "..next").symlink_to(f"..{self.renewals}")
            (mount / "..next").rename(mount / "..data")
            for item in volume["items"]:
                if not (mount / item["path"]).is_symlink():
                    (mount / item["path"]).symlink_to(Path("..data", item["path"]))

    def fill(self, directory, volume, secret):
        directory.mkdir(parents=True)
        for item in volume["items"]:
            file = directory / item["path"]
            file.write_bytes(secret[item["key"]])
            file.chmod(volume["defaultMode"])
            os.chown(file, 0, self.group)
