//! The keys in force: those of a file, as it is now.

use std::{
    fs, io,
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use secrecy::{ExposeSecret, SecretString};

use super::followed_files::FollowedFiles;
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
        let file = KeyFile { path: path.to_owned(), versions: FollowedFiles::new([path.to_owned()]) };
        Ok(Self { file: Some(file), ..Self::fixed(read(path)?) })
    }

    /// The keys in force, not to be held for long.
    pub fn current(&self) -> impl Deref<Target = Arc<KeysInForce>> {
        self.current.load()
    }

    /// Reads the file if it is another than before, and says whether there are new keys. What is wrong with it is logged,
    /// once a version.
    pub fn follow_file(&self) -> bool {
        let file = self.file.as_ref();
        file.and_then(|file| file.versions.if_changed(|| self.load(&file.path))).unwrap_or(false)
    }

    /// Reads the file again, changed or not, and says whether there are new keys.
    pub fn reload(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.versions.anyway(|| self.load(&file.path)))
    }

    fn load(&self, path: &Path) -> bool {
        match read(path) {
            Ok(set) => {
                tracing::info!(keys = ?set, file = %path.display(), "read the signing keys");
                audit::keys_changed(set.ids());
                let generation = self.current.load().generation + 1;
                self.current.store(Arc::new(KeysInForce { generation, set }));
                true
            }
            Err(error) => {
                tracing::error!(%error, "the old signing keys stay in force");
                false
            }
        }
    }
}

fn read(path: &Path) -> Result<KeySet, KeyFileError> {
    let json = fs::read_to_string(path).map_err(|error| KeyFileError::Read(path.to_owned(), error))?;
    let json = SecretString::from(json);
    KeySet::parse(json.expose_secret()).map_err(|error| KeyFileError::Keys(path.to_owned(), error))
}
