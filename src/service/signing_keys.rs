//! The signing keys, read again when their file changes.

use std::{
    collections::BTreeSet,
    io,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::Mutex as AsyncMutex, task::spawn_blocking};

use crate::{
    domain::{jwk::JwkSetError, keys::KeySet},
    telemetry::audit,
    watched_files::{Exposure, Reload, WatchedFiles, read_regular_file},
};

/// The keys that sign and verify tokens. If their file changes and has a mistake, the old keys stay in force.
pub struct SigningKeys {
    current: ArcSwap<CurrentKeys>,
    /// The file that is read again; `None`: the keys never change.
    file: Option<KeyFile>,
}

/// The keys in force.
#[derive(Debug)]
pub struct CurrentKeys {
    /// The number of changes of the keys since the start. A token that was verified in one generation is verified again
    /// in the next.
    pub generation: u32,
    /// The keys themselves.
    pub set: KeySet,
}

/// The file of the keys, and what is known of its versions.
struct KeyFile {
    path: PathBuf,
    watched: WatchedFiles,
    /// When the last [`SigningKeys::changed_since`] began to check the file.
    last_check: AsyncMutex<Option<Instant>>,
    history: Mutex<KeyHistory>,
}

/// The text and the used keys that the next read of the file is compared with: whether the file changed, and whether a
/// key that signed tokens is gone or back.
struct KeyHistory {
    /// The text of the file that the keys in force were read from.
    json: SecretString,
    /// The `kid` of each key, in force or not, that signed or verified a token since the start.
    used: BTreeSet<String>,
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// It is no JWK Set, or a key in it cannot be used.
    #[error("{0}: {1}")]
    Keys(PathBuf, #[source] JwkSetError),
    /// Other users can write it, and so replace the keys.
    #[error("others can write {0}, and so sign tokens: `chmod go-w {0}`")]
    Writable(PathBuf),
}

impl SigningKeys {
    /// Keys that never change.
    pub fn fixed(set: KeySet) -> Self {
        Self { current: ArcSwap::from_pointee(CurrentKeys { generation: 0, set }), file: None }
    }

    /// Reads the keys of this file, and watches it for [`Self::reload`].
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let watched = WatchedFiles::new([path.to_owned()]);
        let (json, set) = read_key_set(path)?;
        let file = KeyFile {
            path: path.to_owned(),
            watched,
            last_check: AsyncMutex::default(),
            history: Mutex::new(KeyHistory { json, used: BTreeSet::new() }),
        };
        Ok(Self { file: Some(file), ..Self::fixed(set) })
    }

    /// Logs a warning if other users can read the key file.
    pub fn warn_if_exposed(&self) {
        let exposed = self.file.as_ref().filter(|file| Exposure::of(&file.path).is_ok_and(|others| others.read));
        if let Some(KeyFile { path, .. }) = exposed {
            tracing::warn!(
                file = %path.display(),
                "others can read the signing keys, and so sign: `chmod o-r` the file, and give it to this \
                 service's group"
            );
        }
    }

    /// The keys in force. Do not hold them across an `await`.
    pub fn current_keys(&self) -> impl Deref<Target = Arc<CurrentKeys>> {
        self.current.load()
    }

    /// Reads the file again, if it changed or always. A mistake in the file is logged, once for each version of the
    /// file, and leaves the old keys in force. Blocks on the file system.
    pub fn reload(&self, when: Reload) {
        self.file.as_ref().inspect(|file| file.watched.reload(when, || self.load(file)));
    }

    /// Reads the file again if it changed, and returns whether the keys in force are of another generation than this.
    /// Concurrent callers share one check of the file, which begins after they called.
    pub async fn changed_since(self: &Arc<Self>, generation: u32) -> bool {
        let called_at = Instant::now();
        let Some(file) = &self.file else { return false };
        let mut last_check = file.last_check.lock().await;
        if last_check.is_none_or(|began_at| began_at < called_at) {
            *last_check = Some(Instant::now());
            let keys = Arc::clone(self);
            // A panic is logged and leaves the keys as they are.
            let _ = spawn_blocking(move || keys.reload(Reload::IfChanged)).await;
        }
        self.current_keys().generation != generation
    }

    /// Reads the file, and puts its keys in force if they are new.
    fn load(&self, file: &KeyFile) {
        let (json, set) = match read_key_set(&file.path) {
            Ok(read) => read,
            Err(error) => return tracing::error!(%error, "the old signing keys stay in force"),
        };
        self.warn_if_exposed();
        tracing::info!(keys = ?set, file = %file.path.display(), "read the signing keys");
        let mut history = file.history.lock();
        if json.expose_secret() == history.json.expose_secret() {
            return;
        }
        audit::keys_changed(set.ids());
        let new = Arc::new(CurrentKeys { generation: self.current_keys().generation + 1, set });
        let old = self.current.swap(Arc::clone(&new));
        history.record_change(json, &old.set, &new.set);
    }
}

impl KeyHistory {
    /// Records that the keys in force were replaced, and logs which keys that signed or verified tokens are gone or
    /// back.
    fn record_change(&mut self, json: SecretString, old: &KeySet, new: &KeySet) {
        self.json = json;
        self.used.extend(old.used_ids().map(str::to_owned));
        for kid in &self.used {
            let is_in = |set: &KeySet| set.ids().any(|id| id == kid);
            match (is_in(old), is_in(new)) {
                (true, false) => tracing::error!(
                    kid,
                    "a key that signed tokens is gone: those that live are refused from now on. Put it back behind the \
                     new one, unless it was removed on purpose"
                ),
                (false, true) => tracing::info!(kid, "a key that signed tokens is back"),
                _ => {}
            }
        }
    }
}

/// The text of a key file and its keys, unless other users can write the file.
fn read_key_set(path: &Path) -> Result<(SecretString, KeySet), KeyFileError> {
    let unreadable = |error| KeyFileError::Read(path.to_owned(), error);
    if Exposure::of(path).map_err(unreadable)?.write {
        return Err(KeyFileError::Writable(path.to_owned()));
    }
    let bytes = read_regular_file(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable(io::Error::other("it is no text")))?;
    let json = SecretString::from(text);
    let set = KeySet::parse(json.expose_secret()).map_err(|error| KeyFileError::Keys(path.to_owned(), error))?;
    Ok((json, set))
}
