//! The public keys of an issuer: fetched before they are needed, and kept while the issuer is away.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{task::spawn_blocking, time::Instant};

use super::run_to_completion;
use crate::{
    domain::{
        issuer::{KeyLocation, KeySource},
        issuer_jwt::{IssuerKeySet, IssuerKeySetError},
        key_url::{KeyUrl, KeyUrlError},
        origin::IssuerId,
    },
    fetch::{FetchError, Fetcher},
    single_flight::SingleFlight,
    telemetry::metrics,
    watched_files::{Exposure, Reload, WatchedFiles, read_regular_file},
};

/// The shortest time between two fetches of one issuer's keys, whatever its JWTs ask for.
pub const MIN_FETCH_INTERVAL: Duration = Duration::from_secs(10);

/// The time between two fetches, if the issuer's `Cache-Control` does not say, and its bounds.
const FETCH_INTERVAL: Duration = Duration::from_mins(5);
const FETCH_INTERVAL_BOUNDS: [Duration; 2] = [Duration::from_mins(1), Duration::from_hours(1)];

/// The longest time that a fetch takes.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there are no keys, or no newer ones.
#[derive(Debug, thiserror::Error)]
pub enum KeyFetchError {
    /// A document was not fetched.
    #[error("{0}: {1}")]
    Fetch(String, #[source] FetchError),
    /// The OpenID configuration is not JSON, or lacks `issuer` or `jwks_uri`.
    #[error("{0}: this is no OpenID configuration")]
    Configuration(String),
    /// The OpenID configuration is of another issuer.
    #[error("{url}: \"issuer\" is {found:?}, and must be exactly as configured")]
    OtherIssuer {
        /// The URL of the configuration.
        url: String,
        /// Its issuer.
        found: String,
    },
    /// The OpenID configuration names a URL from which keys are not fetched.
    #[error("\"jwks_uri\" {0:?}: {1}")]
    KeysUrl(String, #[source] KeyUrlError),
    /// The file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, #[source] std::io::Error),
    /// Others can write the file, and so log in.
    #[error("others can write {0}, and so log in: `chmod go-w {0}`")]
    Writable(PathBuf),
    /// The keys cannot be used.
    #[error("{0}: {1}")]
    Keys(String, #[source] IssuerKeySetError),
}

/// A version of the keys.
pub struct VersionedKeys {
    /// A number that no other version has, of this issuer and of others.
    pub version: u64,
    /// Their text, by which a new version is told from the same keys again.
    json: Vec<u8>,
    /// The keys.
    pub set: IssuerKeySet,
}

/// Keys that were just read.
pub struct Loaded {
    json: Vec<u8>,
    /// The keys.
    pub set: IssuerKeySet,
    /// For how long the issuer lets them be cached.
    max_age: Option<Duration>,
}

/// The keys of one issuer.
pub struct IssuerKeys {
    /// The issuer's `iss`, for logs and metrics.
    issuer: IssuerId,
    source: KeySource,
    /// `None`: they were never read.
    current: ArcSwapOption<VersionedKeys>,
    /// Watches the file with the keys, if they are in one.
    file: Option<WatchedFiles>,
    fetches: SingleFlight<(), ()>,
    schedule: Mutex<Schedule>,
}

/// When keys are fetched.
#[derive(Default)]
struct Schedule {
    /// When the last fetch began.
    began: Option<Instant>,
    /// When the next one is due; `None`: now.
    due: Option<Instant>,
    /// The error of the last fetch, which is logged when it changes.
    error: Option<String>,
}

impl IssuerKeys {
    /// Keys that were not read yet.
    pub fn new(issuer: &IssuerId, source: KeySource) -> Self {
        let file = match &source.location {
            KeyLocation::File(path) => Some(WatchedFiles::new([path.clone()])),
            KeyLocation::Url(_) | KeyLocation::Discovery(..) => None,
        };
        let fetches = SingleFlight::new(Duration::MAX);
        let (current, schedule) = (ArcSwapOption::empty(), Mutex::default());
        Self { issuer: issuer.clone(), source, current, file, fetches, schedule }
    }

    /// The source of the keys.
    pub fn source(&self) -> &KeySource {
        &self.source
    }

    /// The keys in force; `None`: there were none yet.
    pub fn current(&self) -> Option<Arc<VersionedKeys>> {
        self.current.load_full()
    }

    /// Reads the file with the keys, if it changed or always. Blocks on the file system.
    pub fn reload_file(&self, when: Reload) {
        if let Some(file) = &self.file {
            let when = if self.current.load().is_none() { Reload::Always } else { when };
            file.reload(when, || self.put_in_force(load(&self.source)));
        }
    }

    /// Whether it is time to fetch the keys.
    pub fn is_due(&self) -> bool {
        self.file.is_none() && self.schedule.lock().due.is_none_or(|due| due <= Instant::now())
    }

    /// Fetches the keys, unless that was done in the last [`MIN_FETCH_INTERVAL`]. Concurrent callers share one fetch.
    pub async fn fetch(self: &Arc<Self>) {
        if self.file.is_some() {
            return;
        }
        let keys = Arc::clone(self);
        let fetch = move || async move {
            let is_too_early = {
                let mut schedule = keys.schedule.lock();
                let is_too_early = schedule.began.is_some_and(|began| began.elapsed() < MIN_FETCH_INTERVAL);
                if !is_too_early {
                    schedule.began = Some(Instant::now());
                }
                is_too_early
            };
            if is_too_early {
                return;
            }
            // On a thread of its own, and to its end whoever waits: it takes five seconds at most.
            let fetch = async move {
                let source = keys.source.clone();
                if let Ok(loaded) = spawn_blocking(move || load(&source)).await {
                    keys.put_in_force(loaded);
                }
            };
            run_to_completion(fetch).await;
        };
        self.fetches.run((), fetch).await;
    }

    /// Puts new keys in force, or logs why there are none and leaves the old ones in force.
    fn put_in_force(&self, loaded: Result<Loaded, KeyFetchError>) {
        metrics::issuer_keys_fetched(self.issuer.as_str(), loaded.is_ok());
        let mut schedule = self.schedule.lock();
        let now = Instant::now();
        match loaded {
            Ok(Loaded { json, set, max_age }) => {
                let [min, max] = FETCH_INTERVAL_BOUNDS;
                schedule.due = Some(now + max_age.unwrap_or(FETCH_INTERVAL).clamp(min, max));
                let is_back = schedule.error.take().is_some();
                let old = self.current.load_full();
                if old.as_ref().is_none_or(|old| old.json != json) {
                    let version = next_version();
                    tracing::info!(issuer = %self.issuer, keys = set.len(), "read the keys of an issuer");
                    if set.is_empty() {
                        tracing::warn!(issuer = %self.issuer, "an issuer has no key that can verify: nobody logs in");
                    }
                    self.current.store(Some(Arc::new(VersionedKeys { version, json, set })));
                } else if is_back {
                    tracing::info!(issuer = %self.issuer, "an issuer answers again");
                }
            }
            Err(error) => {
                schedule.due = Some(now + MIN_FETCH_INTERVAL);
                let error = error.to_string();
                if schedule.error.as_ref() != Some(&error) {
                    let kept = self.current.load().is_some();
                    tracing::error!(issuer = %self.issuer, error, kept, "cannot get the keys of an issuer");
                    schedule.error = Some(error);
                }
            }
        }
    }
}

/// A number that was not returned before.
fn next_version() -> u64 {
    static VERSIONS: AtomicU64 = AtomicU64::new(0);
    VERSIONS.fetch_add(1, Relaxed)
}

/// Reads the keys of a source. Blocks on the network and the file system.
pub fn load(source: &KeySource) -> Result<Loaded, KeyFetchError> {
    let deadline = Instant::now() + FETCH_TIMEOUT;
    let left = || deadline.saturating_duration_since(Instant::now());
    let fetcher = || {
        let file = source.ca_file.as_deref();
        Fetcher::new(file).map_err(|error| KeyFetchError::Read(file.map(PathBuf::from).unwrap_or_default(), error))
    };
    let get = |fetcher: &Fetcher, url: &KeyUrl| {
        fetcher.get(url, left()).map_err(|error| KeyFetchError::Fetch(url.to_string(), error))
    };
    let (place, json, max_age) = match &source.location {
        KeyLocation::File(path) => {
            let unreadable = |error| KeyFetchError::Read(path.clone(), error);
            if Exposure::of(path).map_err(unreadable)?.write {
                return Err(KeyFetchError::Writable(path.clone()));
            }
            (path.display().to_string(), read_regular_file(path).map_err(unreadable)?, None)
        }
        KeyLocation::Url(url) => {
            let document = get(&fetcher()?, url)?;
            (url.to_string(), document.bytes, document.max_age)
        }
        KeyLocation::Discovery(issuer, name) => {
            let (fetcher, configuration) = (fetcher()?, issuer.openid_configuration());
            let url = keys_url(issuer, name, &configuration, &get(&fetcher, &configuration)?.bytes)?;
            let document = get(&fetcher, &url)?;
            (url.to_string(), document.bytes, document.max_age)
        }
    };
    let set = IssuerKeySet::parse(&json).map_err(|error| KeyFetchError::Keys(place, error))?;
    Ok(Loaded { json, set, max_age })
}

/// The URL of the keys in an OpenID configuration, which must be of exactly this issuer (OpenID Connect Discovery 1.0,
/// section 4.3). It may be on this machine only if the issuer is.
fn keys_url(issuer: &KeyUrl, name: &IssuerId, url: &KeyUrl, json: &[u8]) -> Result<KeyUrl, KeyFetchError> {
    #[derive(Deserialize)]
    struct Configuration {
        issuer: String,
        jwks_uri: String,
    }
    let configuration = serde_json::from_slice::<Configuration>(json);
    let Configuration { issuer: found, jwks_uri } =
        configuration.map_err(|_| KeyFetchError::Configuration(url.to_string()))?;
    if found != name.as_str() {
        return Err(KeyFetchError::OtherIssuer { url: url.to_string(), found });
    }
    let keys = jwks_uri.parse::<KeyUrl>().and_then(|keys| {
        if keys.is_loopback() && !issuer.is_loopback() { Err(KeyUrlError::Address) } else { Ok(keys) }
    });
    keys.map_err(|error| KeyFetchError::KeysUrl(jwks_uri, error))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    use serde_json::json;
    use tokio::time::advance;

    use super::*;

    /// Keys at a URL that is never asked here.
    fn keys() -> IssuerKeys {
        let location = KeyLocation::Url("https://issuer.example/keys".parse().unwrap());
        IssuerKeys::new(&"https://issuer.example".parse().unwrap(), KeySource { location, ca_file: None })
    }

    /// A set with one key, as it is read.
    fn loaded(kid: &str, max_age: Option<u64>) -> Loaded {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let json = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x}]}).to_string().into_bytes();
        let set = IssuerKeySet::parse(&json).unwrap();
        Loaded { json, set, max_age: max_age.map(Duration::from_secs) }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_fetched_as_often_as_their_issuer_says_within_bounds() {
        for (max_age, seconds) in
            [(None, 300), (Some(0), 60), (Some(59), 60), (Some(600), 600), (Some(86_400), 3600), (Some(u64::MAX), 3600)]
        {
            let keys = keys();
            assert!(keys.is_due());
            keys.put_in_force(Ok(loaded("a", max_age)));
            advance(Duration::from_secs(seconds - 1)).await;
            assert!(!keys.is_due(), "{max_age:?}");
            advance(Duration::from_secs(1)).await;
            assert!(keys.is_due(), "{max_age:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_leaves_the_keys_in_force_and_is_followed_by_another_fetch() {
        let keys = keys();
        keys.put_in_force(Ok(loaded("a", Some(3600))));
        keys.put_in_force(Err(KeyFetchError::Configuration("x".into())));
        assert_eq!(keys.current().unwrap().set.len(), 1);
        assert!(!keys.is_due());
        advance(MIN_FETCH_INTERVAL).await;
        assert!(keys.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn callers_share_a_fetch_and_the_next_one_is_ten_seconds_later() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let location = KeyLocation::Url(format!("http://{}/", server.local_addr().unwrap()).parse().unwrap());
        let source = KeySource { location, ca_file: None };
        let keys = Arc::new(IssuerKeys::new(&"https://issuer.example".parse().unwrap(), source));
        let accept = server.try_clone().unwrap();
        let answers = thread::spawn(move || {
            for kid in ["a", "b"] {
                let (mut stream, _) = accept.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                let body = loaded(kid, None).json;
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
                stream.write_all(&body).unwrap();
            }
        });
        let fetch = async || {
            keys.fetch().await;
            keys.current().map(|keys| keys.version)
        };
        // Both wait for the keys.
        let (one, other) = tokio::join!(fetch(), fetch());
        assert!(one.is_some() && one == other, "{one:?}, {other:?}");
        advance(MIN_FETCH_INTERVAL.saturating_sub(Duration::from_millis(1))).await;
        assert_eq!(fetch().await, one);
        advance(Duration::from_millis(1)).await;
        assert_ne!(fetch().await, one);
        answers.join().unwrap();
        server.set_nonblocking(true).unwrap();
        assert!(server.accept().is_err(), "a third fetch");
    }

    #[tokio::test]
    async fn the_same_keys_are_the_same_version() {
        let keys = keys();
        let version_of = |kid: &str| {
            keys.put_in_force(Ok(loaded(kid, None)));
            keys.current().unwrap().version
        };
        let first = version_of("a");
        assert_eq!(version_of("a"), first);
        assert_ne!(version_of("b"), first);
    }

    #[test]
    fn the_configuration_is_of_this_issuer_and_names_no_address_of_this_machine() {
        let url = |issuer: &str, found: &str, uri: &str| {
            let (of, name) = (issuer.parse().unwrap(), issuer.parse().unwrap());
            let json = json!({"issuer": found, "jwks_uri": uri}).to_string();
            keys_url(&of, &name, &of, json.as_bytes()).map(|url| url.to_string()).map_err(|error| error.to_string())
        };
        let (far, near) = ("https://issuer.example", "http://127.0.0.1:1");
        assert_eq!(url(far, far, "https://keys.example/").as_deref(), Ok("https://keys.example/"));
        assert_eq!(url(near, near, "http://127.0.0.1:2/").as_deref(), Ok("http://127.0.0.1:2/"));
        for here in ["https://127.0.0.1/", "http://localhost:8080/", "https://[::1]/", "https://[::ffff:127.0.0.1]/"] {
            assert!(url(far, far, here).unwrap_err().contains("its address is"), "{here}");
        }
        for other in ["https://issuer.example/", "https://Issuer.example", "https://issuer.example.evil.example"] {
            assert!(url(far, other, "https://keys.example/").unwrap_err().contains("exactly as configured"), "{other}");
        }
    }
}
