//! The verifier: leases in memory, and the service where there is none.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::{
    FutureExt,
    future::{BoxFuture, WeakShared},
};
use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{
    clock::{Clock, Moment},
    error::{Rejection, Unavailable, VerifyError},
    http::{Answer, Credentials, Service, UrlError},
    lease_table::{Digest, LeaseTable},
    token::{Demands, Token},
    wire::{Changes, Introspection},
};

/// The time between two questions about changes.
const QUESTION_INTERVAL: Duration = Duration::from_millis(100);

/// The longest wait for an answer about changes. Twice as long as an answer can renew anything.
const QUESTION_TIMEOUT: Duration = Duration::from_millis(500);

/// The longest time between two questions about changes while they fail, and while the credentials are rejected: each
/// question with a wrong password counts as a failed login.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(1);
const CREDENTIALS_RETRY_PAUSE: Duration = Duration::from_secs(10);

/// The longest JWT that is asked about, in bytes. The service issues none of more than 6,000.
const MAX_JWT_BYTES: usize = 8192;

/// Verifies tokens. Cheap to clone: clones share all that is known.
///
/// Needs a Tokio runtime, in which a task asks the service ten times a second which tokens have changed. The task ends
/// when the last clone is dropped.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

/// The settings of a [`Verifier`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    url: String,
    credentials: Credentials,
    capacity: usize,
    timeout: Duration,
    concurrency: usize,
}

/// Numbers of events since the verifier was built.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Verifications that were answered from memory.
    pub hits: u64,
    /// Questions to the service about tokens.
    pub questions: u64,
    /// Questions about tokens that failed.
    pub failures: u64,
    /// Answers about changes that renewed the leases.
    pub renewals: u64,
    /// Answers about changes that began a new sequence: each token in use was asked about again.
    pub resets: u64,
    /// Tokens in memory, with and without a lease.
    pub tokens: u64,
}

struct Inner {
    clock: Clock,
    leases: LeaseTable,
    service: Service,
    /// The questions about tokens under way, which concurrent callers share.
    questions: Mutex<HashMap<Digest, WeakShared<BoxFuture<'static, Asked>>>>,
    permits: Semaphore,
    timeout: Duration,
    /// Until then the service is not asked about tokens, as it rejected the credentials.
    rejected_until: AtomicU64,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    questions: AtomicU64,
    failures: AtomicU64,
    renewals: AtomicU64,
    resets: AtomicU64,
}

/// The end of a question about a token: when it was sent, and the token, if it is live.
#[derive(Clone)]
struct Asked {
    sent: Moment,
    found: Result<Option<Token>, Unavailable>,
}

/// Removes a question when it has ended or all its callers are gone.
struct RemoveOnDrop(Arc<Inner>, Digest);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        self.0.questions.lock().remove(&self.1);
    }
}

impl Verifier {
    /// Connects to the service at this URL, as in `https://tokens.example`. The user needs the role `introspector`.
    ///
    /// Returns once the service has answered; an error: it did not, or it rejected the credentials.
    /// [`Builder::build`] does not wait for the service.
    pub async fn connect(url: &str, credentials: Credentials) -> Result<Self, ConnectError> {
        let verifier = Self::builder(url, credentials).build()?;
        let asked = timeout(verifier.0.timeout, verifier.0.service.changes(None)).await;
        match asked.unwrap_or(Err(Unavailable::Timeout)) {
            // Without a watch, tokens are asked about one by one.
            Ok(_) | Err(Unavailable::Status(503)) => Ok(verifier),
            Err(error) => Err(error.into()),
        }
    }

    /// A verifier with other settings than the defaults.
    pub fn builder(url: &str, credentials: Credentials) -> Builder {
        let (capacity, timeout) = (65_536, Duration::from_secs(2));
        Builder { url: url.to_owned(), credentials, capacity, timeout, concurrency: 64 }
    }

    /// Verifies a JWT: from memory while there is a lease, else by asking the service.
    ///
    /// A token that is bound to networks is rejected: use [`Verifier::verify_for`] with the client's address.
    pub async fn verify(&self, jwt: &str) -> Result<Token, VerifyError> {
        self.verify_for(jwt, &Demands::default()).await
    }

    /// Verifies a JWT, and that its token meets the demands.
    pub async fn verify_for(&self, jwt: &str, demands: &Demands) -> Result<Token, VerifyError> {
        let digest = digest_of(jwt).ok_or(Rejection::NotLive)?;
        let asked_at = self.0.clock.now();
        let token = match self.0.leases.find(&digest, asked_at) {
            Some(token) => {
                self.0.counters.hits.fetch_add(1, Relaxed);
                token
            }
            // Boxed, so that the future of a hit is small.
            None => Box::pin(self.0.ask(jwt, digest, asked_at)).await?,
        };
        demands.check(&token)?;
        Ok(token)
    }

    /// Verifies a JWT from memory alone. `None`: there is no lease, so [`Verifier::verify_for`] would ask the service.
    pub fn verify_leased(&self, jwt: &str, demands: &Demands) -> Option<Result<Token, Rejection>> {
        let token = self.0.leases.find(&digest_of(jwt)?, self.0.clock.now())?;
        self.0.counters.hits.fetch_add(1, Relaxed);
        Some(demands.check(&token).map(|()| token))
    }

    /// Logs in with these credentials from now on, for a password that changed or a token that expires.
    pub fn set_credentials(&self, credentials: Credentials) {
        self.0.service.set_credentials(credentials);
        self.0.rejected_until.store(0, Relaxed);
    }

    /// The numbers of events so far.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Verifier").field(&self.stats()).finish()
    }
}

/// Why [`Verifier::connect`] failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL cannot be that of a service.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The service gave no answer, or rejected the credentials.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Builder {
    /// The number of tokens in memory, about 500 bytes each; 65,536 by default.
    pub fn capacity(self, tokens: usize) -> Self {
        Self { capacity: tokens, ..self }
    }

    /// The longest time for a verification that asks the service; 2 s by default.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The most questions about tokens at once, so that a flood of unknown tokens does not become one of connections;
    /// 64 by default.
    pub fn concurrency(self, questions: usize) -> Self {
        Self { concurrency: questions.max(1), ..self }
    }

    /// Builds the verifier, and begins to ask the service about changes.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn build(self) -> Result<Verifier, UrlError> {
        let inner = Arc::new(Inner {
            clock: Clock::default(),
            leases: LeaseTable::new(self.capacity),
            service: Service::new(&self.url, self.credentials, self.concurrency)?,
            questions: Mutex::default(),
            permits: Semaphore::new(self.concurrency),
            timeout: self.timeout,
            rejected_until: AtomicU64::new(0),
            counters: Counters::default(),
        });
        tokio::spawn(renew(Arc::downgrade(&inner)));
        Ok(Verifier(inner))
    }
}

/// The SHA-256 of a JWT; `None`: the text is too long for one.
fn digest_of(jwt: &str) -> Option<Digest> {
    let is_short = jwt.len() <= MAX_JWT_BYTES;
    is_short.then(|| digest(&SHA256, jwt.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

/// Whether the service may be asked about this text, which becomes part of a form.
fn may_be_jwt(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Inner {
    /// Asks the service about a token, for a caller who came at `asked_at`.
    async fn ask(self: &Arc<Self>, jwt: &str, digest: Digest, asked_at: Moment) -> Result<Token, VerifyError> {
        // Checked only here, as no other text gets a lease: a hit took 0.65 µs with this check, and takes 0.39 without.
        if !may_be_jwt(jwt) {
            return Err(Rejection::NotLive.into());
        }
        loop {
            let Asked { sent, found } = self.share_question(jwt, digest).await;
            let Some(token) = found? else { return Err(Rejection::NotLive.into()) };
            // A question that was sent before the caller came may have been answered before a revocation. Its answer
            // counts only while there is a lease. The next question is sent later, so this loop ends.
            if asked_at <= sent || self.leases.find(&digest, self.clock.now()).is_some() {
                return Ok(token);
            }
        }
    }

    /// The end of the question about this token that is under way, or else of a new one.
    async fn share_question(self: &Arc<Self>, jwt: &str, digest: Digest) -> Asked {
        let question = {
            let mut questions = self.questions.lock();
            questions.get(&digest).and_then(WeakShared::upgrade).unwrap_or_else(|| {
                let (inner, jwt) = (Arc::clone(self), jwt.to_owned());
                let question = async move {
                    let guard = RemoveOnDrop(inner, digest);
                    guard.0.question(&jwt, digest).await
                };
                let question = question.boxed().shared();
                questions.insert(digest, question.downgrade().expect("it has not ended"));
                question
            })
        };
        question.await
    }

    /// Asks the service about a token, and again if the first answer failed: another replica may answer.
    async fn question(&self, jwt: &str, digest: Digest) -> Asked {
        let mut sent = self.clock.now();
        let attempts = async {
            let _permit = self.permits.acquire().await.map_err(|_| Unavailable::Busy)?;
            sent = self.clock.now();
            match self.introspect(jwt, digest, sent).await {
                Err(Unavailable::Connection(_) | Unavailable::Status(500..)) => {
                    sent = self.clock.now();
                    self.introspect(jwt, digest, sent).await
                }
                result => result,
            }
        };
        let found = timeout(self.timeout, attempts).await.unwrap_or(Err(Unavailable::Timeout));
        if let Err(error) = &found {
            self.counters.failures.fetch_add(1, Relaxed);
            tracing::debug!(%error, "a token could not be verified");
        }
        Asked { sent, found }
    }

    async fn introspect(&self, jwt: &str, digest: Digest, sent: Moment) -> Result<Option<Token>, Unavailable> {
        if sent < Moment::from_nanos(self.rejected_until.load(Relaxed)) {
            return Err(Unavailable::Credentials(401));
        }
        self.counters.questions.fetch_add(1, Relaxed);
        let answer = self.service.introspect(jwt).await.inspect_err(|error| self.note_rejection(error, sent))?;
        let now = self.clock.now();
        match Introspection::parse(&answer.body).map_err(|_| Unavailable::Malformed)? {
            Introspection::NotLive => Ok(None),
            Introspection::Live(token, age) => {
                let life = remaining_life(token.expires_at(), &answer);
                self.leases.insert(digest, token.clone(), life, age, sent, now).map_err(|_| Unavailable::Malformed)?;
                Ok(Some(token))
            }
        }
    }

    /// Asks the service for nothing more for a while if it rejected the credentials.
    fn note_rejection(&self, error: &Unavailable, sent: Moment) {
        if let Unavailable::Credentials(_) | Unavailable::Status(429) = error {
            self.rejected_until.store(sent.plus(MAX_RETRY_PAUSE).as_nanos(), Relaxed);
        }
    }

    /// Asks the service which tokens have changed.
    async fn ask_changes(&self) -> Result<(), Unavailable> {
        let question = self.leases.begin_question(self.clock.now());
        let answer = timeout(QUESTION_TIMEOUT, self.service.changes(question.cursor.as_deref())).await;
        let answer = answer.unwrap_or(Err(Unavailable::Timeout))?;
        let changes = Changes::parse(&answer.body).map_err(|_| Unavailable::Malformed)?;
        let counter = if changes.reset { &self.counters.resets } else { &self.counters.renewals };
        counter.fetch_add(1, Relaxed);
        self.leases.end_question(&question, changes, self.clock.now());
        Ok(())
    }

    fn stats(&self) -> Stats {
        let Counters { hits, questions, failures, renewals, resets } = &self.counters;
        let [hits, questions, failures, renewals, resets] =
            [hits, questions, failures, renewals, resets].map(|counter| counter.load(Relaxed));
        Stats { hits, questions, failures, renewals, resets, tokens: self.leases.len() as u64 }
    }

    #[cfg(feature = "metrics")]
    fn publish_metrics(&self) {
        let Stats { hits, questions, failures, renewals, resets, tokens } = self.stats();
        metrics::counter!("mayfly_verifier_hits_total").absolute(hits);
        metrics::counter!("mayfly_verifier_questions_total").absolute(questions);
        metrics::counter!("mayfly_verifier_failures_total").absolute(failures);
        metrics::counter!("mayfly_verifier_renewals_total").absolute(renewals);
        metrics::counter!("mayfly_verifier_resets_total").absolute(resets);
        #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 tokens")]
        metrics::gauge!("mayfly_verifier_tokens").set(tokens as f64);
    }
}

/// Asks the service about changes until all clones of the verifier are dropped.
async fn renew(inner: Weak<Inner>) {
    let mut failures: u32 = 0;
    while let Some(inner) = inner.upgrade() {
        let begun = inner.clock.now();
        let asked = inner.ask_changes().await;
        #[cfg(feature = "metrics")]
        inner.publish_metrics();
        match &asked {
            Ok(()) if failures > 0 => tracing::info!("leases on tokens are renewed again"),
            Err(error) if failures == 0 => {
                tracing::warn!(%error, "leases on tokens are not renewed: the service is asked about each token");
            }
            _ => {}
        }
        failures = if asked.is_ok() { 0 } else { failures.saturating_add(1) };
        let interval = match asked {
            Ok(()) => QUESTION_INTERVAL,
            Err(Unavailable::Credentials(_) | Unavailable::Status(404 | 429)) => CREDENTIALS_RETRY_PAUSE,
            Err(_) => MAX_RETRY_PAUSE.min(QUESTION_INTERVAL * failures),
        };
        let pause = interval.saturating_sub(inner.clock.now().since(begun));
        drop(inner);
        sleep(pause).await;
    }
}

/// The rest of a token's life: until the second `exp` by the clock of the service, or by this machine's if that is
/// ahead.
fn remaining_life(expires_at: u64, answer: &Answer) -> Duration {
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let by_service = answer.date.as_deref().and_then(|date| httpdate::parse_http_date(date).ok()).map(seconds);
    let now = seconds(SystemTime::now()).max(by_service.unwrap_or_default());
    Duration::from_secs(expires_at).saturating_sub(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_a_jwt_is_asked_about() {
        assert!(may_be_jwt("eyJh.eyJ1.c2ln_-"));
        for other in ["", "a.b", "a.b.c.d", "a.b.c ", "a.b.c&x=y", "a.b.\u{e9}"] {
            assert!(!may_be_jwt(other), "{other}");
        }
        assert!(digest_of(&"x".repeat(MAX_JWT_BYTES)).is_some() && digest_of(&"x".repeat(MAX_JWT_BYTES + 1)).is_none());
    }

    #[test]
    fn a_life_ends_by_the_clock_that_is_ahead() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let answer = |date: Option<u64>| {
            let date = date.map(|date| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(date)));
            Answer { body: bytes::Bytes::new(), date }
        };
        let life = |date| remaining_life(now + 100, &answer(date)).as_secs();
        assert!((98..=100).contains(&life(None)) && (98..=100).contains(&life(Some(now - 3600))));
        assert_eq!((life(Some(now + 90)), life(Some(now + 3600))), (10, 0));
        assert_eq!(remaining_life(0, &answer(None)), Duration::ZERO);
        assert!(remaining_life(u64::MAX, &answer(Some(0))).as_secs() > now);
    }
}
