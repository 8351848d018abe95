//! The body of a request, of which the endpoint may leave a part.
//!
//! hyper closes a connection behind a body that nobody read, without a word to the client, who may be sending the next
//! request by then. So a small rest is read and dropped behind the answer, and the answer to a larger one says that it
//! is the last.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::progress::Progress;

/// The largest rest of a body that is read and dropped, so that the connection can be used again.
const MAX_REST_BYTES: u64 = 64 * 1024;

/// A body as the endpoint gets it. A part that the endpoint leaves goes to [`Progress::leave`].
pub(super) struct LentBody {
    body: Option<Incoming>,
    progress: Arc<Progress>,
    is_asked_for: bool,
}

impl LentBody {
    pub(super) fn new(body: Incoming, progress: Arc<Progress>) -> Self {
        Self { body: Some(body), progress, is_asked_for: false }
    }
}

impl Body for LentBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if !this.is_asked_for {
            this.is_asked_for = true;
            this.progress.begin_body();
        }
        let frame = Pin::new(body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None)) {
            this.body = None;
            this.progress.end_body();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for LentBody {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        if self.is_asked_for {
            self.progress.end_body();
        }
        if let Some(body) = rest {
            self.progress.leave(Rest { body, is_asked_for: self.is_asked_for });
        }
    }
}

/// The part of a body that the endpoint left.
pub(super) struct Rest {
    body: Incoming,
    is_asked_for: bool,
}

impl Rest {
    /// Whether the client sends it, and no more than is worth reading. `expects`: whether the client waits to be asked
    /// for the body (RFC 9110, section 10.1.1), and may not send it once it has the answer. Without a known length
    /// there may be any amount.
    pub(super) fn is_small(&self, expects: bool) -> bool {
        let is_sent = self.is_asked_for || !expects;
        is_sent && self.body.size_hint().exact().is_some_and(|bytes| bytes <= MAX_REST_BYTES)
    }

    /// Reads and drops it. Ready once nothing is left.
    pub(super) fn poll_drop(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // An error ends the connection, which hyper sees to.
        while ready!(Pin::new(&mut self.body).poll_frame(cx)).is_some_and(|frame| frame.is_ok()) {}
        Poll::Ready(())
    }
}
