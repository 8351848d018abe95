//! What the kernel says of this process: on Linux, all that is asked here; elsewhere, nothing.

use opentelemetry::metrics::Meter;

/// The user of the operating system that runs the process.
#[cfg(target_os = "linux")]
pub(super) fn uid() -> Option<u32> {
    procfs::process::Process::myself().and_then(|process| process.uid()).ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn uid() -> Option<u32> {
    None
}

/// Measures CPU, memory, file descriptors and age whenever somebody wants to know.
#[cfg(target_os = "linux")]
pub(super) fn observe(meter: &Meter) {
    use opentelemetry::KeyValue;
    use procfs::{WithCurrentSystemInfo, process::Process};

    let stat = || Process::myself().and_then(|process| process.stat());
    let ticks_per_second = procfs::ticks_per_second();
    meter
        .f64_observable_counter("process.cpu.time")
        .with_unit("s")
        .with_description("CPU time of the process.")
        .with_callback(move |observer| {
            if let Ok(stat) = stat() {
                for (mode, ticks) in [("user", stat.utime), ("system", stat.stime)] {
                    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 ticks")]
                    observer.observe(ticks as f64 / ticks_per_second as f64, &[KeyValue::new("cpu.mode", mode)]);
                }
            }
        })
        .build();
    meter
        .u64_observable_gauge("process.memory.usage")
        .with_unit("By")
        .with_description("Resident memory of the process.")
        .with_callback(move |observer| {
            if let Ok(stat) = stat() {
                observer.observe(stat.rss_bytes().get(), &[]);
            }
        })
        .build();
    // The conventions say `process.unix.file_descriptor.count`, and promtool that only a histogram may end so.
    meter
        .u64_observable_gauge("mayfly.process.file_descriptors")
        .with_unit("{file_descriptor}")
        .with_description("Open file descriptors of the process.")
        .with_callback(|observer| {
            if let Ok(open) = Process::myself().and_then(|process| process.fd_count()) {
                observer.observe(open as u64, &[]);
            }
        })
        .build();
    let started = std::time::Instant::now();
    meter
        .f64_observable_gauge("process.uptime")
        .with_unit("s")
        .with_description("Time since the process began to measure.")
        .with_callback(move |observer| observer.observe(started.elapsed().as_secs_f64(), &[]))
        .build();
}

#[cfg(not(target_os = "linux"))]
pub(super) fn observe(_: &Meter) {}
