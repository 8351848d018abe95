//! Files that are read again when they change.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::fs::OFlags;

/// How often files are looked at.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Files that are read together. Whoever reads them is the only one who does.
pub struct FollowedFiles {
    paths: Vec<PathBuf>,
    /// What they looked like before they were last read, whatever came of it.
    seen: Mutex<Vec<Option<Fingerprint>>>,
}

/// Tells one version of a file from the next without reading it. Behind the symbolic links of a Kubernetes secret, too,
/// a new version is another inode.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    mode: u32,
    modified: (i64, i64),
}

impl FollowedFiles {
    /// Files that are about to be read.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths: Vec<_> = paths.into_iter().collect();
        let seen = Mutex::new(fingerprints(&paths));
        Self { paths, seen }
    }

    /// Has them read if one of them is another than before.
    pub fn if_changed<T>(&self, read: impl FnOnce() -> T) -> Option<T> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = fingerprints(&self.paths);
        (*seen != found).then(|| {
            *seen = found;
            read()
        })
    }

    /// Has them read, changed or not.
    pub fn anyway<T>(&self, read: impl FnOnce() -> T) -> T {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = fingerprints(&self.paths);
        read()
    }
}

/// Reads a regular file, or one that symbolic links lead to. Anything else is an error: a pipe would block until
/// somebody writes into it, and a device may have no end.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let without_blocking = OFlags::NONBLOCK.bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(without_blocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn fingerprints(paths: &[PathBuf]) -> Vec<Option<Fingerprint>> {
    paths.iter().map(|path| Fingerprint::of(path).ok()).collect()
}

impl Fingerprint {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mode: metadata.mode(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}
