//! The `assay` program; all of it is in the library.

use std::process::ExitCode;

/// Gives memory back after a spike, which the system's allocator does not: docs/PERFORMANCE.md has both.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    assay::cli::main()
}
