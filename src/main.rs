//! The `assay` program. [`assay::cli`] implements the command line.

use std::process::ExitCode;

/// jemalloc, because it returns memory to the system after a peak. docs/PERFORMANCE.md compares it with the allocator of the
/// system.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    assay::cli::main()
}
