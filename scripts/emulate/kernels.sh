#!/bin/sh
# Makes a crate of src/model/kernel.rs and its directory alone and prints its path: it compiles in seconds for another
# processor or with a sanitizer, where all dependencies of the whole crate take many minutes.
#
# So the kernels name nothing outside of themselves but core, std and what is taken over below from Cargo.toml.
set -eu

cd "$(dirname "$0")/../.."
root=$PWD
crate=$root/target/emulate/kernels
mkdir -p "$crate/src/model"
ln -sfn "$root/src/model/kernel.rs" "$crate/src/model/kernel.rs"
ln -sfn "$root/src/model/kernel" "$crate/src/model/kernel"
cp Cargo.lock "$crate/"
{
    printf '[package]\nname = "kernels"\nversion = "0.1.0"\nedition = "2024"\n\n[workspace]\n\n[dependencies]\n'
    grep -E '^(half|libm|proptest|rustix) = ' Cargo.toml
    printf '\n[profile.dev]\nopt-level = 1\n\n[profile.dev.package."*"]\ndebug = false\n'
} >"$crate/Cargo.toml"
# Two modules deep, so that `pub(in crate::model)` and `super` mean what they mean in the crate.
printf '#![allow(dead_code)]\nmod model;\n' >"$crate/src/lib.rs"
printf 'mod kernel;\n' >"$crate/src/model.rs"
echo "$crate"
