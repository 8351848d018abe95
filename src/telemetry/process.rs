//! Metrics of the process, as Linux counts them.

use std::time::Instant;

use opentelemetry::{KeyValue, metrics::Meter};
use procfs::{WithCurrentSystemInfo, process::Process};

/// Registers CPU time, memory, file descriptors and uptime, which are measured whenever metrics are read.
pub(super) fn register(meter: &Meter) {
    let stat = || Process::myself().and_then(|process| process.stat());
    let ticks_per_second = procfs::ticks_per_second();
    let cpu_time = meter.f64_observable_counter("process.cpu.time").with_unit("s");
    cpu_time
        .with_description("CPU time of the process.")
        .with_callback(move |observer| {
            let Ok(stat) = stat() else { return };
            for (mode, ticks) in [("user", stat.utime), ("system", stat.stime)] {
                #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 ticks")]
                observer.observe(ticks as f64 / ticks_per_second as f64, &[KeyValue::new("cpu.mode", mode)]);
            }
        })
        .build();
    let gauge = |name: &'static str, unit: &'static str, description: &'static str, read: fn() -> Option<u64>| {
        let gauge = meter.u64_observable_gauge(name).with_unit(unit).with_description(description);
        gauge.with_callback(move |observer| read().into_iter().for_each(|value| observer.observe(value, &[]))).build()
    };
    gauge("process.memory.usage", "By", "Resident memory of the process.", || {
        Some(Process::myself().ok()?.stat().ok()?.rss_bytes().get())
    });
    // The conventions say `process.unix.file_descriptor.count`; promtool allows `_count` for histograms only.
    gauge("mayfly.process.file_descriptors", "{file_descriptor}", "Open file descriptors of the process.", || {
        Some(Process::myself().ok()?.fd_count().ok()? as u64)
    });
    let started = Instant::now();
    let uptime = meter.f64_observable_gauge("process.uptime").with_unit("s");
    uptime
        .with_description("Time since the process began to measure.")
        .with_callback(move |observer| observer.observe(started.elapsed().as_secs_f64(), &[]))
        .build();
}
