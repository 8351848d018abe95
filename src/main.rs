//! The program `mayfly`. All its code is in the library: see [`mayfly::cli`].

use std::process::ExitCode;

// It hands out again what was freed last, which the cores still have in their caches: a create takes a fifth less time
// than with mimalloc, which first hands out all else.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    mayfly::cli::run()
}
