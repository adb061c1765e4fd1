"""Validates a CycloneDX software bill of materials, and checks that it contains every crate of the binary.

    python sbom.py assay.cdx.json

The schema is that of cyclonedx-python-lib, strictly: what it does not know is a mistake.
"""

import json
import subprocess
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

TREE = "cargo tree --locked --edges normal,build --target x86_64-unknown-linux-gnu --prefix none --format {p}".split()


def main():
    text = Path(sys.argv[1]).read_text()
    bill = json.loads(text)
    version = bill["specVersion"]
    mistake = JsonStrictValidator(SchemaVersion[f"V{version.replace('.', '_')}"]).validate_str(text)
    if mistake is not None:
        sys.exit(f"not CycloneDX {version}: {str(mistake).splitlines()[0]}")
    listed = {(part["name"], part["version"]) for part in bill["components"]}
    listed.add((bill["metadata"]["component"]["name"], bill["metadata"]["component"]["version"]))
    needed = built()
    if needed - listed:
        sys.exit(f"not listed: {sorted(needed - listed)}")
    bare = [part["name"] for part in bill["components"] if not part.get("licenses") or not part.get("hashes")]
    if bare:
        sys.exit(f"without a licence or a checksum: {bare}")
    linked = sum(part["scope"] == "required" for part in bill["components"])
    print(f"valid CycloneDX {version}: {len(bill['components'])} crates, {linked} of them not for the build alone")
    # The resolver knows optional parts of parts that no feature asks for.
    print(f"listed and not built: {sorted(name for name, _ in listed - needed) or 'none'}")


def built():
    lines = subprocess.run(TREE, capture_output=True, text=True, check=True).stdout.splitlines()
    return {(name, version.removeprefix("v")) for name, version, *_ in map(str.split, filter(None, lines))}


if __name__ == "__main__":
    main()
