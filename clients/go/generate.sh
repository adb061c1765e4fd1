#!/bin/sh
# Makes gen/ from the proto files, with the plugins that go.mod pins and the protoc of the Python package
# grpcio-tools. With a protoc of your own: PROTOC=protoc ./generate.sh
set -eu
cd "$(dirname "$0")"

module=assay.dev/clients/go
tools=$PWD/../../target/tools/bin
protoc=${PROTOC:-"${PYTHON:-python3} -m grpc_tools.protoc"}

GOBIN=$tools go install tool

# The files name a Go package of their own; here they become part of this module.
set -- "module=$module"
for file in ../../proto/assay/v1/*.proto; do
    set -- "$@" "Massay/v1/$(basename "$file")=$module/gen/assay/v1;assayv1"
done
options=$(IFS=,; echo "$*")

rm -rf gen
$protoc -I ../../proto \
    --plugin "$tools/protoc-gen-go" --plugin "$tools/protoc-gen-go-grpc" \
    --go_out . --go_opt "$options" --go-grpc_out . --go-grpc_opt "$options" \
    ../../proto/assay/v1/*.proto
