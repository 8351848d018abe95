//! What operators see.

mod audit;
mod canary;
mod logs;
mod metrics;
mod panicking;
mod traces;
