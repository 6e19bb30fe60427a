//! The binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // They make a third of an idle process's memory, and nothing faster.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    integration_service::cli::run()
}
