//! Logs, audit events, metrics and traces, as operators see them.

mod audit;
mod canary;
mod logs;
mod metrics;
mod panicking;
mod traces;
