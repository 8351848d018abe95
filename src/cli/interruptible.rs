//! Commands that a signal ends in an orderly way.

use std::{io, thread};

use futures_util::future::select_all;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use super::outcome::Failure;

/// Runs a command to its end, or until a signal. The signal drops the command, which restores the terminal.
pub(super) async fn until_signal(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let kinds = [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];
    let signals = kinds.map(|kind| {
        Box::pin(async move {
            signal(kind)?.recv().await;
            io::Result::Ok(kind)
        })
    });
    tokio::select! {
        biased;
        (kind, ..) = select_all(signals) => {
            let number = kind?.as_raw_value();
            Err(Failure::Signal(u8::try_from(number).unwrap_or_default()))
        }
        result = command => result,
    }
}

/// Blocks on a thread of its own. The runtime would wait for the end of one of its threads, even after a signal.
pub(super) async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, result) = oneshot::channel();
    thread::spawn(move || sender.send(work()));
    result.await.expect("the thread sends a result")
}
