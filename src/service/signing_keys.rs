//! The signing keys, read again when their file changes.

use std::{
    collections::BTreeSet,
    fs, io,
    ops::Deref,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    process::{Gid, getegid, getgroups},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::Mutex as AsyncMutex, task::spawn_blocking};

use crate::{
    domain::{jwk::JwkSetError, keys::KeySet},
    telemetry::audit,
    watched_files::{Reload, WatchedFiles, read_regular_file},
};

/// The keys that sign and verify tokens. A file with a mistake in it leaves the old keys in force.
pub struct SigningKeys {
    current: ArcSwap<CurrentKeys>,
    file: Option<KeyFile>,
}

/// The keys in force.
#[derive(Debug)]
pub struct CurrentKeys {
    /// Counts the changes of the keys. A token that was verified in one generation is verified again in the next.
    pub generation: u64,
    /// The keys.
    pub set: KeySet,
}

struct KeyFile {
    path: PathBuf,
    watched: WatchedFiles,
    /// When the last [`SigningKeys::changed_since`] began to check the file.
    last_check: AsyncMutex<Option<Instant>>,
    history: Mutex<KeyHistory>,
}

struct KeyHistory {
    /// The text of the keys in force.
    json: SecretString,
    /// The `kid` of each key, in force or not, that signed or verified a token since the start.
    used: BTreeSet<String>,
}

/// A key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, #[source] io::Error),
    /// It holds no usable keys.
    #[error("{0}: {1}")]
    Keys(PathBuf, #[source] JwkSetError),
    /// Other users could replace the keys.
    #[error("others can write {0}, and so sign tokens: `chmod go-w {0}`")]
    Writable(PathBuf),
}

impl SigningKeys {
    /// Keys that never change.
    pub fn fixed(set: KeySet) -> Self {
        Self { current: ArcSwap::from_pointee(CurrentKeys { generation: 0, set }), file: None }
    }

    /// Reads the keys of this file.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let watched = WatchedFiles::new([path.to_owned()]);
        let (json, set) = read(path)?;
        let file = KeyFile {
            path: path.to_owned(),
            watched,
            last_check: AsyncMutex::default(),
            history: Mutex::new(KeyHistory { json, used: BTreeSet::new() }),
        };
        Ok(Self { file: Some(file), ..Self::fixed(set) })
    }

    /// Logs a warning if other users can read the file.
    pub fn warn_if_exposed(&self) {
        let exposed = self.file.as_ref().filter(|file| Permissions::of(&file.path).is_ok_and(|others| others.read));
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

    /// Reads the file again. A mistake in it is logged, once for each version of the file. Blocks on the file system.
    pub fn reload(&self, when: Reload) {
        self.file.as_ref().inspect(|file| file.watched.reload(when, || self.load(file)));
    }

    /// Checks the file for changes, and returns whether the keys in force are newer than this generation. Concurrent
    /// callers share one check, which begins after their call.
    pub async fn changed_since(self: &Arc<Self>, generation: u64) -> bool {
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

    fn load(&self, file: &KeyFile) {
        let (json, set) = match read(&file.path) {
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
        history.replace(json, &old.set, &new.set);
    }
}

impl KeyHistory {
    /// Records that other keys are in force, and logs which keys of live tokens are gone or back.
    fn replace(&mut self, json: SecretString, old: &KeySet, new: &KeySet) {
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

/// The permissions of other users on a file.
struct Permissions {
    write: bool,
    read: bool,
}

impl Permissions {
    /// Other users are all but the owner. The group of this process may read, as with a Secret that Kubernetes mounts.
    /// On a read-only mount, as containers have for secrets, permissions do not say who has access.
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        if statvfs(path)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Ok(Self { write: false, read: false });
        }
        let group = Gid::from_raw(metadata.gid());
        let is_own_group = getegid() == group || getgroups()?.contains(&group);
        let readers = if is_own_group { 0o004 } else { 0o044 };
        Ok(Self { write: metadata.mode() & 0o022 != 0, read: metadata.mode() & readers != 0 })
    }
}

fn read(path: &Path) -> Result<(SecretString, KeySet), KeyFileError> {
    let unreadable = |error| KeyFileError::Read(path.to_owned(), error);
    if Permissions::of(path).map_err(unreadable)?.write {
        return Err(KeyFileError::Writable(path.to_owned()));
    }
    let bytes = read_regular_file(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable(io::Error::other("it is no text")))?;
    let json = SecretString::from(text);
    let set = KeySet::parse(json.expose_secret()).map_err(|error| KeyFileError::Keys(path.to_owned(), error))?;
    Ok((json, set))
}
