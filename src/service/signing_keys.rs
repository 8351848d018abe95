//! The keys in force: those of a file, as it is now.

use std::{
    io,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};
use tokio::{sync::Mutex, task::spawn_blocking};

use super::followed_files::{FollowedFiles, read_regular};
use crate::{
    domain::{jwk::JwkSetError, keys::KeySet},
    telemetry::audit,
};

/// The keys that sign and verify. They follow their file: a new one is read when it appears, and as long as it is broken
/// the old keys stay in force.
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
    versions: FollowedFiles,
    /// When [`SigningKeys::look`] last began to.
    last_look: Mutex<Option<Instant>>,
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
}

impl SigningKeys {
    /// Keys that never change.
    pub fn fixed(keys: KeySet) -> Self {
        Self { current: ArcSwap::from_pointee(KeysInForce { generation: 0, set: keys }), file: None }
    }

    /// The keys of this file.
    pub fn open(path: &Path) -> Result<Self, KeyFileError> {
        let versions = FollowedFiles::new([path.to_owned()]);
        let file = KeyFile { path: path.to_owned(), versions, last_look: Mutex::default() };
        Ok(Self { file: Some(file), ..Self::fixed(read(path)?) })
    }

    /// The keys in force, not to be held for long.
    pub fn current(&self) -> impl Deref<Target = Arc<KeysInForce>> {
        self.current.load()
    }

    /// Reads the file if it is another than before. A mistake in it is logged, once a version. Blocks.
    pub fn follow_file(&self) {
        self.file.as_ref().inspect(|file| _ = file.versions.if_changed(|| self.load(&file.path)));
    }

    /// Reads the file again, changed or not. Blocks.
    pub fn reload(&self) {
        self.file.as_ref().inspect(|file| file.versions.anyway(|| self.load(&file.path)));
    }

    /// Follows the file on a thread that may block, and returns whether the keys in force are others than those of `generation`.
    /// Callers at the same time share a look that began after their call.
    pub async fn look(self: &Arc<Self>, generation: u64) -> bool {
        let called_at = Instant::now();
        let Some(file) = &self.file else { return false };
        let mut last_look = file.last_look.lock().await;
        if last_look.is_none_or(|begun_at| begun_at < called_at) {
            *last_look = Some(Instant::now());
            let keys = Arc::clone(self);
            // A panic of it is logged, and is no new key.
            let _ = spawn_blocking(move || keys.follow_file()).await;
        }
        self.current().generation != generation
    }

    fn load(&self, path: &Path) {
        match read(path) {
            Ok(set) => {
                tracing::info!(keys = ?set, file = %path.display(), "read the signing keys");
                audit::keys_changed(set.ids());
                let generation = self.current.load().generation + 1;
                self.current.store(Arc::new(KeysInForce { generation, set }));
            }
            Err(error) => tracing::error!(%error, "the old signing keys stay in force"),
        }
    }
}

fn read(path: &Path) -> Result<KeySet, KeyFileError> {
    let text =
        |bytes| String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text"));
    let json = read_regular(path).and_then(text).map_err(|error| KeyFileError::Read(path.to_owned(), error))?;
    let json = SecretString::from(json);
    KeySet::parse(json.expose_secret()).map_err(|error| KeyFileError::Keys(path.to_owned(), error))
}
