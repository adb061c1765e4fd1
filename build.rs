//! Build script: compiles the protocol without protoc, writes its descriptors for reflection, and sets the git revision.

#![allow(clippy::disallowed_methods, reason = "no event loop runs in a build script")]

use std::{env, error::Error, fs, path::PathBuf, process::Command};

use protox::prost::Message;

const PROTOS: [&str; 3] = ["assay/v1/embedding.proto", "assay/v1/evaluation.proto", "assay/v1/server.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    compile_protocol()?;
    set_revision();
    Ok(())
}

fn compile_protocol() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::Compiler::new(["proto"])?
        .include_imports(true)
        .include_source_info(true)
        .open_files(PROTOS)?
        .file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("assay.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .extern_path(".google.rpc", "::tonic_types::pb")
        .bytes(".assay.v1.Embedding.raw")
        .codec_path("crate::rpc::codec::Codec")
        .compile_fds(descriptors)?;
    Ok(())
}

fn set_revision() {
    println!("cargo:rerun-if-env-changed=ASSAY_GIT_REVISION");
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/logs/HEAD");
    let revision = env::var("ASSAY_GIT_REVISION").unwrap_or_else(|_| git_revision());
    println!("cargo:rustc-env=ASSAY_GIT_REVISION={revision}");
}

/// The git revision; empty if the sources are not a git checkout.
fn git_revision() -> String {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => String::new(),
    }
}
