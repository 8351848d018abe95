//! The trusted issuers: their file, and the JWTs that log in by its rules.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use quick_cache::sync::Cache;
use tokio::time::{MissedTickBehavior, interval};

use super::{Clock, LoginLimits, external_login::ExternalLogin, issuer_keys::IssuerKeys};
use crate::{
    domain::{
        issuer::{Admission, Check, Issuer},
        issuer_jwt::{IssuerJwt, SignatureError, unverified_issuer},
        issuers_file::{self, IssuersFileError},
        origin::{IssuerId, Origin},
        throttle::ClientNetwork,
        token::TokenDigest,
    },
    telemetry::{audit, events::LoginFailure, metrics},
    watched_files::{Exposure, Reload, WatchedFiles, read_regular_file},
};

/// How often the schedules of the keys are looked at.
const KEYS_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The maximum number of JWTs whose check is cached.
const CAPACITY: usize = 10_000;

/// The issuers of a file, and the JWTs that were checked. If the file changes and has a mistake, the old issuers stay
/// in force.
pub struct TrustedIssuers {
    /// `None`: there is no file, and no issuer.
    file: Option<IssuersFile>,
    current: ArcSwap<CurrentIssuers>,
    /// The JWTs that logged in, by their SHA-256. Only an issuer can make one, so strangers cannot fill the cache.
    checked: Cache<TokenDigest, CheckedJwt>,
    /// Tells whether a JWT has expired.
    clock: Clock,
}

/// The file of the issuers.
struct IssuersFile {
    path: PathBuf,
    watched: WatchedFiles,
    /// The `iss` of this service's own tokens.
    own: Option<String>,
}

/// The issuers in force.
#[derive(Default)]
struct CurrentIssuers {
    /// The number of changes since the start.
    generation: u64,
    /// As in the file.
    issuers: Vec<Arc<Issuer>>,
    by_name: HashMap<IssuerId, TrustedIssuer>,
}

/// All entries of one `iss`, and its keys.
#[derive(Clone)]
struct TrustedIssuer {
    entries: Vec<Arc<Issuer>>,
    keys: Arc<IssuerKeys>,
}

/// A JWT that was checked with these versions of the issuers and of the keys.
#[derive(Clone)]
struct CheckedJwt {
    generation: u64,
    key_version: u64,
    admission: Arc<Admission>,
}

/// Why a JWT of a trusted issuer does not log in. Clients are not told more: the rules are the operator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssuerJwtRejection {
    /// Its `exp` has passed. All else is right.
    #[error("expired")]
    Expired,
    /// Its header, its signature or its claims are not accepted.
    #[error("not accepted")]
    Rejected,
    /// The keys of the issuer are not known yet, and it does not answer.
    #[error("the keys of the issuer are not known")]
    NoKeys,
}

/// Why a file of issuers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    /// It cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// It has mistakes.
    #[error("{0}: {1}")]
    File(PathBuf, #[source] IssuersFileError),
    /// Others can write it, and so log in as anybody.
    #[error("others can write {0}, and so log in: `chmod go-w {0}`")]
    Writable(PathBuf),
}

impl TrustedIssuers {
    /// No issuers.
    pub fn none() -> Self {
        let (current, checked) = (ArcSwap::default(), Cache::new(CAPACITY));
        Self { file: None, current, checked, clock: Clock::system() }
    }

    /// Has this clock tell whether a JWT has expired, beside that of this machine.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Reads the issuers of this file, and watches it for [`Self::reload`]. `own`: the `iss` of this service's tokens.
    pub fn open(path: &Path, own: Option<&str>) -> Result<Self, IssuersError> {
        let watched = WatchedFiles::new([path.to_owned()]);
        let issuers = read(path, own)?;
        let current = CurrentIssuers::default().replaced_by(issuers);
        let file = IssuersFile { path: path.to_owned(), watched, own: own.map(str::to_owned) };
        Ok(Self { file: Some(file), current: ArcSwap::from_pointee(current), ..Self::none() })
    }

    /// Reads the file again, if it changed or always, and the files with keys. A mistake is logged, once for each
    /// version of a file, and leaves what was read before in force. Blocks on the file system.
    pub fn reload(&self, when: Reload) {
        if let Some(file) = &self.file {
            file.watched.reload(when, || self.load(file));
        }
        for trusted in self.current.load_full().by_name.values() {
            trusted.keys.reload_file(when);
        }
    }

    fn load(&self, file: &IssuersFile) {
        let issuers = match read(&file.path, file.own.as_deref()) {
            Ok(issuers) => issuers,
            Err(error) => return tracing::error!(%error, "the old issuers stay in force"),
        };
        let old = self.current.load_full();
        if old.issuers.iter().map(|issuer| &**issuer).eq(&issuers) {
            return;
        }
        let new = old.replaced_by(issuers);
        audit::issuers_changed(new.issuers.iter().map(|issuer| issuer.name.as_str()));
        self.current.store(Arc::new(new));
        // Entries of issuers that are gone hold memory until then.
        self.checked.clear();
    }

    /// Fetches the keys of all issuers when they are due, and never returns. An issuer that is slow delays no other.
    pub async fn keep_keys(&self) {
        let mut ticks = interval(KEYS_CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for trusted in self.current.load_full().by_name.values().filter(|trusted| trusted.keys.is_due()) {
                let keys = Arc::clone(&trusted.keys);
                tokio::spawn(async move { keys.fetch().await });
            }
        }
    }

    /// Checks the signature and the claims of a JWT, once for its bytes, the version of the file and the version of the
    /// keys. `None`: it is not of a trusted issuer. A failure is counted, and logged for `client`.
    pub async fn identify(
        &self,
        jwt: &str,
        client: ClientNetwork,
    ) -> Result<Option<Arc<Admission>>, IssuerJwtRejection> {
        // Of two clocks that differ, the one by which a JWT expires earlier.
        let now = self.clock.unix_seconds().max(Clock::system().unix_seconds());
        let digest = TokenDigest::of(jwt);
        loop {
            let current = self.current.load_full();
            if let Some(admission) = self.checked_before(&current, &digest).filter(|one| !one.is_expired(now)) {
                metrics::issuer_login(admission.issuer.name.as_str(), true);
                return Ok(Some(admission));
            }
            let Some((name, trusted)) = current.of(jwt) else { return Ok(None) };
            let checked = trusted.check(jwt, now).await;
            // The check may have waited for keys. Meanwhile, the issuer may have been removed from the file.
            if self.current.load().generation != current.generation {
                continue;
            }
            return match checked {
                Ok((key_version, admission)) => {
                    metrics::issuer_login(name.as_str(), true);
                    let admission = Arc::new(admission);
                    let entry =
                        CheckedJwt { generation: current.generation, key_version, admission: Arc::clone(&admission) };
                    self.checked.insert(digest, entry);
                    Ok(Some(admission))
                }
                Err(failure) => {
                    let (error, reason) = failure.reason();
                    audit::issuer_jwt_rejected(reason, name, &failure.to_string(), client);
                    Err(error)
                }
            };
        }
    }

    fn checked_before(&self, current: &CurrentIssuers, digest: &TokenDigest) -> Option<Arc<Admission>> {
        if current.by_name.is_empty() {
            return None;
        }
        let checked = self.checked.get(digest).filter(|checked| checked.generation == current.generation)?;
        let keys = current.by_name.get(&checked.admission.issuer.name)?.keys.current()?;
        (keys.version == checked.key_version).then_some(checked.admission)
    }
}

impl CurrentIssuers {
    /// The issuer of a JWT, by an `iss` that anyone can have written.
    fn of(&self, jwt: &str) -> Option<(&IssuerId, &TrustedIssuer)> {
        if self.by_name.is_empty() {
            return None;
        }
        self.by_name.get_key_value(&unverified_issuer(jwt)?.parse().ok()?)
    }

    /// The next generation, with these issuers. Where the keys are at the same place as before, they are kept.
    fn replaced_by(&self, issuers: Vec<Issuer>) -> Self {
        let issuers: Vec<_> = issuers.into_iter().map(Arc::new).collect();
        let mut by_name = HashMap::<IssuerId, TrustedIssuer>::new();
        for issuer in &issuers {
            let trusted = by_name.entry(issuer.name.clone()).or_insert_with(|| {
                let old = self.by_name.get(&issuer.name).filter(|old| *old.keys.source() == issuer.keys);
                let new = || Arc::new(IssuerKeys::new(&issuer.name, issuer.keys.clone()));
                TrustedIssuer { entries: Vec::new(), keys: old.map_or_else(new, |old| Arc::clone(&old.keys)) }
            });
            trusted.entries.push(Arc::clone(issuer));
        }
        Self { generation: self.generation + 1, issuers, by_name }
    }
}

/// The login that an issuer vouches for. Its rules also limit a user who is known already.
impl From<&Admission> for ExternalLogin {
    fn from(Admission { user, issuer, .. }: &Admission) -> Self {
        Self {
            name: user.clone(),
            origin: Origin::Issuer(issuer.name.clone()),
            role: issuer.role,
            max_role: issuer.role,
            limits: LoginLimits { max_life: issuer.max_life, scopes: issuer.scopes.clone() },
        }
    }
}

/// Why a JWT was not accepted, for the operator.
#[derive(Debug, thiserror::Error)]
enum CheckFailure {
    #[error("{0}")]
    Jwt(&'static str),
    #[error("no keys")]
    NoKeys,
    /// The rules that failed: those of the entry of which the fewest did.
    #[error("{}", .0.join(" "))]
    Rules(Vec<String>),
}

impl CheckFailure {
    fn reason(&self) -> (IssuerJwtRejection, LoginFailure) {
        match self {
            Self::Jwt(_) => (IssuerJwtRejection::Rejected, LoginFailure::IssuerJwt),
            Self::NoKeys => (IssuerJwtRejection::NoKeys, LoginFailure::IssuerAway),
            Self::Rules(rules) if *rules == ["exp"] => (IssuerJwtRejection::Expired, LoginFailure::IssuerRules),
            Self::Rules(_) => (IssuerJwtRejection::Rejected, LoginFailure::IssuerRules),
        }
    }
}

impl TrustedIssuer {
    /// Checks a JWT, and returns the version of the keys that verified it. Waits for the issuer only if it has no keys,
    /// or none that fits the JWT.
    async fn check(&self, jwt: &str, now: u64) -> Result<(u64, Admission), CheckFailure> {
        let jwt = IssuerJwt::parse(jwt).map_err(|error| CheckFailure::Jwt(error.label()))?;
        let verify = || self.keys.current().map(|keys| (keys.version, keys.set.verify(&jwt)));
        let mut verified = verify();
        if matches!(verified, None | Some((_, Err(SignatureError::UnknownKey)))) {
            self.keys.fetch().await;
            verified = verify();
        }
        let (version, verified) = verified.ok_or(CheckFailure::NoKeys)?;
        verified.map_err(|error| CheckFailure::Jwt(error.label()))?;
        let mut closest: Option<Vec<Check>> = None;
        for entry in &self.entries {
            match entry.admit(&jwt.claims, now) {
                Ok(admission) => return Ok((version, admission)),
                Err(failed) => {
                    if closest.as_ref().is_none_or(|closest| failed.len() < closest.len()) {
                        closest = Some(failed);
                    }
                }
            }
        }
        Err(CheckFailure::Rules(closest.unwrap_or_default().into_iter().map(|check| check.rule).collect()))
    }
}

/// Reads a file of issuers, unless others can write it.
pub fn read(path: &Path, own: Option<&str>) -> Result<Vec<Issuer>, IssuersError> {
    let unreadable = |error| IssuersError::Read(path.to_owned(), error);
    if Exposure::of(path).map_err(unreadable)?.write {
        return Err(IssuersError::Writable(path.to_owned()));
    }
    let bytes = read_regular_file(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable(io::Error::other("it is no text")))?;
    issuers_file::parse(&text, own).map_err(|error| IssuersError::File(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read, Write},
        net::{IpAddr, TcpListener},
    };

    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use serde_json::{Value, json};

    use super::*;

    /// The key of an issuer.
    struct Signer(Ed25519KeyPair);

    impl Signer {
        fn new() -> Self {
            Self(Ed25519KeyPair::generate().unwrap())
        }

        fn jwks(&self) -> String {
            let x = BASE64_URL_SAFE_NO_PAD.encode(self.0.public_key());
            json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}).to_string()
        }

        /// A JWT of the issuer `ci` with these claims beside `iss` and `aud`.
        fn sign(&self, claims: Value) -> String {
            self.sign_as("ci", claims)
        }

        fn sign_as(&self, issuer: &str, mut claims: Value) -> String {
            claims["iss"] = json!(issuer);
            claims["aud"] = json!("mayfly");
            let encode = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
            let message = format!("{}.{}", encode(json!({"alg": "EdDSA"})), encode(claims));
            format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(self.0.sign(message.as_bytes())))
        }
    }

    /// A file of issuers.
    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        /// The rules of an issuer with the keys of this signer, in `keys.json`.
        fn of(signer: &Signer) -> Self {
            let files = Self::new();
            files.write("keys.json", &signer.jwks());
            files.write_issuer(&files.keys_in("keys.json"), "");
            files
        }

        /// The line of the rules that names this file of keys.
        fn keys_in(&self, name: &str) -> String {
            format!("jwks_file = \"{}\"", self.path(name).display())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        /// The rules of an issuer whose keys are there, with these further lines.
        fn write_issuer(&self, keys: &str, lines: &str) {
            let common = "issuer = \"ci\"\naudience = \"mayfly\"\nuser = \"ci\"";
            self.write("issuers.toml", &format!("[[issuer]]\n{common}\n{keys}\n{lines}\n"));
        }

        /// The issuers of the file, whose keys are not read yet.
        fn open(&self) -> TrustedIssuers {
            TrustedIssuers::open(&self.path("issuers.toml"), None).unwrap()
        }

        /// The issuers of the file, with their keys.
        fn load(&self) -> TrustedIssuers {
            let issuers = self.open();
            issuers.reload(Reload::Always);
            issuers
        }
    }

    fn client() -> ClientNetwork {
        IpAddr::from([192, 0, 2, 1]).into()
    }

    const FUTURE: u64 = 4_000_000_000;

    #[tokio::test]
    async fn a_jwt_is_checked_once_for_its_bytes_and_the_versions_of_the_file_and_of_the_keys() {
        let signer = Signer::new();
        let files = Files::of(&signer);
        let (keys, issuers) = (files.keys_in("keys.json"), files.load());
        let jwt = signer.sign(json!({"exp": FUTURE}));
        let is_cached = |jwt: &str| issuers.checked_before(&issuers.current.load(), &TokenDigest::of(jwt)).is_some();
        assert!(!is_cached(&jwt));
        assert!(issuers.identify(&jwt, client()).await.unwrap().is_some());
        assert!(is_cached(&jwt) && !is_cached(&signer.sign(json!({"exp": FUTURE, "a": 1}))));
        // One that is not let in is checked each time.
        let expired = signer.sign(json!({"exp": 1}));
        assert_eq!(issuers.identify(&expired, client()).await.unwrap_err(), IssuerJwtRejection::Expired);
        assert!(!is_cached(&expired));

        // Other rules.
        files.write_issuer(&keys, "max_life = \"1 hour\"");
        issuers.reload(Reload::Always);
        assert!(!is_cached(&jwt) && issuers.checked.is_empty());
        let admission = issuers.identify(&jwt, client()).await.unwrap().unwrap();
        assert!(admission.issuer.max_life.is_some() && is_cached(&jwt));
        // Other keys.
        files.write("keys.json", &Signer::new().jwks());
        issuers.reload(Reload::Always);
        assert!(!is_cached(&jwt));
        assert_eq!(issuers.identify(&jwt, client()).await.unwrap_err(), IssuerJwtRejection::Rejected);
    }

    /// A check that ended before the file changed may be cached after it.
    #[tokio::test]
    async fn a_check_by_old_rules_is_of_no_use_to_new_ones() {
        let signer = Signer::new();
        let files = Files::of(&signer);
        let (keys, issuers) = (files.keys_in("keys.json"), files.load());
        let jwt = signer.sign(json!({"exp": FUTURE}));
        issuers.identify(&jwt, client()).await.unwrap().unwrap();
        let digest = TokenDigest::of(&jwt);
        let late = issuers.checked.get(&digest).unwrap();
        files.write_issuer(&keys, "require = { ref = \"main\" }");
        issuers.reload(Reload::Always);
        issuers.checked.insert(digest, late);
        assert_eq!(issuers.identify(&jwt, client()).await.unwrap_err(), IssuerJwtRejection::Rejected);
    }

    #[tokio::test]
    async fn keys_are_kept_under_other_rules_and_not_from_another_place() {
        let (files, signers) = (Files::new(), [Signer::new(), Signer::new()]);
        let [first, second] = ["a.json", "b.json"].map(|name| files.keys_in(name));
        files.write("a.json", &signers[0].jwks());
        files.write_issuer(&first, "");
        let issuers = files.load();
        let [old, new] = signers.each_ref().map(|signer| signer.sign(json!({"exp": FUTURE})));
        assert!(issuers.identify(&old, client()).await.unwrap().is_some());
        // As if the issuer were away.
        fs::remove_file(files.path("a.json")).unwrap();
        files.write_issuer(&first, "max_life = \"1 hour\"");
        issuers.reload(Reload::Always);
        assert!(issuers.identify(&old, client()).await.unwrap().unwrap().issuer.max_life.is_some());
        files.write_issuer(&second, "");
        issuers.reload(Reload::Always);
        assert_eq!(issuers.identify(&old, client()).await.unwrap_err(), IssuerJwtRejection::NoKeys);
        files.write("b.json", &signers[1].jwks());
        issuers.reload(Reload::Always);
        assert!(issuers.identify(&new, client()).await.unwrap().is_some());
        assert_eq!(issuers.identify(&old, client()).await.unwrap_err(), IssuerJwtRejection::Rejected);
    }

    /// Such a JWT may be one of this service.
    #[tokio::test]
    async fn a_jwt_of_another_issuer_is_not_checked() {
        let signer = Signer::new();
        let issuers = Files::of(&signer).load();
        for issuer in ["c", "ci/", "CI", ""] {
            let jwt = signer.sign_as(issuer, json!({"exp": FUTURE}));
            assert!(matches!(issuers.identify(&jwt, client()).await, Ok(None)), "{issuer:?}");
        }
    }

    #[tokio::test]
    async fn an_issuer_that_is_removed_while_a_login_waits_for_its_keys_logs_nobody_in() {
        let (files, signer) = (Files::new(), Signer::new());
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        files.write_issuer(&format!("jwks_uri = \"http://{}/\"", server.local_addr().unwrap()), "");
        let issuers = Arc::new(files.open());
        let (jwt, waiting) = (signer.sign(json!({"exp": FUTURE})), Arc::clone(&issuers));
        let login = tokio::spawn(async move { waiting.identify(&jwt, client()).await.map(|found| found.is_some()) });
        let answer = tokio::task::spawn_blocking(move || {
            let (mut stream, _) = server.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            files.write("issuers.toml", "");
            issuers.reload(Reload::Always);
            let body = signer.jwks();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        });
        answer.await.unwrap();
        assert_eq!(login.await.unwrap(), Ok(false));
    }

    #[tokio::test]
    async fn a_jwt_expires_by_the_clock_by_which_it_expires_earlier() {
        let signer = Signer::new();
        let files = Files::of(&signer);
        let at = |seconds: u64| {
            let issuers = files.open().with_clock(Clock::new(move || Duration::from_secs(seconds)));
            issuers.reload(Reload::Always);
            issuers
        };
        let (long, short) = (signer.sign(json!({"exp": FUTURE})), signer.sign(json!({"exp": 1_000_000})));
        assert!(at(0).identify(&long, client()).await.unwrap().is_some());
        // The store's clock is ahead, and behind.
        assert_eq!(at(FUTURE + 60).identify(&long, client()).await.unwrap_err(), IssuerJwtRejection::Expired);
        assert_eq!(at(0).identify(&short, client()).await.unwrap_err(), IssuerJwtRejection::Expired);
    }
}
