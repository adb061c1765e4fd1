#!/bin/sh
# Makes gen/ from the proto files. google.rpc comes from googleapis-common-protos, so only assay's own are made.
set -eu
cd "$(dirname "$0")"

rm -rf gen
mkdir gen
"${PYTHON:-python3}" -m grpc_tools.protoc -I ../../proto \
    --python_out gen --pyi_out gen --grpc_python_out gen ../../proto/assay/v1/*.proto
