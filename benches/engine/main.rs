//! Rust engines for the comparison in benches/peers. Each is a process that responds to JSON lines.
//!
//! `--engine assay [--precision X]`, `--engine candle` or `--engine machine`; benches/peers/protocol.py has the
//! requests. Without `--engine` it does nothing, so that a plain `cargo bench` skips it.

mod candle;
mod in_process;
mod machine;
mod protocol;
#[cfg(target_arch = "x86_64")]
mod registers;

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).map(String::as_str)
    };
    match value("--engine") {
        None => Ok(()),
        Some("assay") => protocol::serve(in_process::InProcessEngine::new(value("--precision"))?),
        Some("candle") => protocol::serve(candle::Candle::default()),
        Some("machine") => protocol::serve(machine::Machine),
        Some(other) => Err(format!("no engine {other:?}; there are assay, candle and machine").into()),
    }
}
