//! The keys in force: those of a file, as it is now.

use std::{
    collections::BTreeSet,
    fs, io,
    ops::Deref,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{self, Arc, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;
use rustix::{
    fs::{StatVfsMountFlags, statvfs},
    process::{Gid, getegid, getgroups},
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::Mutex, task::spawn_blocking};

use super::Clock;
use crate::{
    domain::{jwk::JwkSetError, keys::KeySet},
    telemetry::audit,
    watched_files::{Reload, WatchedFiles, read_regular_file},
};

/// The keys that sign and verify. They follow their file: a new one is read when it appears, and as long as it is
/// broken the old keys stay in force.
pub struct SigningKeys {
    current: ArcSwap<KeysInForce>,
    file: Option<KeyFile>,
}

/// The keys of one version of the file.
#[derive(Debug)]
pub struct KeysInForce {
    /// Which version, counted from 0: what was verified with one is to be verified again with the next.
    pub generation: u64,
    /// The keys.
    pub set: KeySet,
}

struct KeyFile {
    path: PathBuf,
    watched: WatchedFiles,
    /// When [`SigningKeys::look`] last began to.
    last_look: Mutex<Option<Instant>>,
    signed: sync::Mutex<Signed>,
}

/// The keys that signed since the start, by their `kid`.
#[derive(Default)]
struct Signed {
    /// From when on the keys in force are, in seconds since the epoch.
    since: u64,
    ids: BTreeSet<String>,
    /// Those that are not in force any more.
    lost: BTreeSet<String>,
}

impl Signed {
    /// Notes that other keys are in force from now on, and logs what becomes of tokens that live.
    fn follow(&mut self, old: &KeySet, new: &KeySet) {
        let now = Clock::system().unix_seconds();
        self.ids.extend([self.since, now].map(|at| old.signing_id(at).to_owned()));
        self.since = now;
        for kid in &self.ids {
            let is_lost = !new.ids().contains(kid);
            if is_lost && self.lost.insert(kid.clone()) {
                tracing::error!(
                    kid,
                    "a key that signed tokens is gone: those that live are refused from now on. Put it back behind the \
                     new one, unless it was removed on purpose"
                );
            } else if !is_lost && self.lost.remove(kid) {
                tracing::info!(kid, "a key that signed tokens is back");
            }
        }
    }
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
    /// Whoever writes it signs tokens.
    #[error("others can write {0}, and so sign tokens: `chmod go-w {0}`")]
    Writable(PathBuf),
}

impl SigningKeys {
    /// Keys that never change.
    pub fn fixed(keys: KeySet) -> Self {
        Self { current: ArcSwap::from_pointee(KeysInForce { generation: 0, set: keys }), file: None }
    }

    /// The keys of this file.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let watched = WatchedFiles::new([path.to_owned()]);
        let signed = Signed { since: Clock::system().unix_seconds(), ..Signed::default() };
        let (path_of_file, signed) = (path.to_owned(), sync::Mutex::new(signed));
        let file = KeyFile { path: path_of_file, watched, last_look: Mutex::default(), signed };
        Ok(Self { file: Some(file), ..Self::fixed(read(path)?) })
    }

    /// Warns where others can read the file.
    pub fn warn_if_exposed(&self) {
        let exposed =
            self.file.as_ref().filter(|file| Exposure::of(&file.path).is_ok_and(|exposure| exposure.readable));
        if let Some(KeyFile { path, .. }) = exposed {
            tracing::warn!(
                file = %path.display(),
                "others can read the signing keys, and so sign: `chmod o-r` the file, and give it to this service's group"
            );
        }
    }

    /// The keys in force, not to be held for long.
    pub fn current(&self) -> impl Deref<Target = Arc<KeysInForce>> {
        self.current.load()
    }

    /// Reads the file again. A mistake in it is logged, once a version. Blocks.
    pub fn reload(&self, when: Reload) {
        self.file.as_ref().inspect(|file| file.watched.reload(when, || self.load(file)));
    }

    /// Follows the file on a thread that may block, and returns whether the keys in force are others than those of
    /// `generation`. Callers at the same time share a look that began after their call.
    pub async fn look(self: &Arc<Self>, generation: u64) -> bool {
        let called_at = Instant::now();
        let Some(file) = &self.file else { return false };
        let mut last_look = file.last_look.lock().await;
        if last_look.is_none_or(|begun_at| begun_at < called_at) {
            *last_look = Some(Instant::now());
            let keys = Arc::clone(self);
            // A panic of it is logged, and is no new key.
            let _ = spawn_blocking(move || keys.reload(Reload::IfChanged)).await;
        }
        self.current().generation != generation
    }

    fn load(&self, file: &KeyFile) {
        match read(&file.path) {
            Ok(set) => {
                self.warn_if_exposed();
                let old = self.current.load_full();
                file.signed.lock().unwrap_or_else(PoisonError::into_inner).follow(&old.set, &set);
                tracing::info!(keys = ?set, file = %file.path.display(), "read the signing keys");
                audit::keys_changed(set.ids());
                self.current.store(Arc::new(KeysInForce { generation: old.generation + 1, set }));
            }
            Err(error) => tracing::error!(%error, "the old signing keys stay in force"),
        }
    }
}

/// What others may do with a file.
struct Exposure {
    writable: bool,
    readable: bool,
}

impl Exposure {
    /// Others are all but the owner. The group of this process may read, as it does a Secret that Kubernetes mounts. On
    /// a read-only mount, as containers have for secrets, permissions say nothing of who can get there.
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        if statvfs(path)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Ok(Self { writable: false, readable: false });
        }
        let group = Gid::from_raw(metadata.gid());
        let is_ours = getegid() == group || getgroups()?.contains(&group);
        let readers = if is_ours { 0o004 } else { 0o044 };
        Ok(Self { writable: metadata.mode() & 0o022 != 0, readable: metadata.mode() & readers != 0 })
    }
}

fn read(path: &Path) -> Result<KeySet, KeyFileError> {
    if Exposure::of(path).map_err(|error| KeyFileError::Read(path.to_owned(), error))?.writable {
        return Err(KeyFileError::Writable(path.to_owned()));
    }
    let text =
        |bytes| String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text"));
    let json = read_regular_file(path).and_then(text).map_err(|error| KeyFileError::Read(path.to_owned(), error))?;
    let json = SecretString::from(json);
    KeySet::parse(json.expose_secret()).map_err(|error| KeyFileError::Keys(path.to_owned(), error))
}
