//! Files that are read again when they change.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::fs::OFlags;

/// How often files are checked for changes.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// When [`WatchedFiles::reload`] reads the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// If one of them changed since they were last read.
    IfChanged,
    /// In any case: the operator asked for it.
    Always,
}

/// Files that are read together.
pub struct WatchedFiles {
    paths: Vec<PathBuf>,
    /// The version of each file when they were last read, successfully or not; `None`: it could not be found.
    versions: Mutex<Vec<Option<Version>>>,
}

/// Tells one version of a file from the next without reading it. A new version of a mounted Kubernetes secret is
/// another inode behind the same symbolic links.
#[derive(PartialEq, Eq)]
struct Version {
    device_and_inode: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds. Changes with the content, the permissions and the owner.
    ctime: (i64, i64),
}

impl WatchedFiles {
    /// Watches these files. Call this before they are first read, so that no change in between is missed.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths: Vec<_> = paths.into_iter().collect();
        let versions = Mutex::new(Self::versions(&paths));
        Self { paths, versions }
    }

    /// Calls `read` once at a time. Blocks on the file system.
    pub fn reload(&self, when: Reload, read: impl FnOnce()) {
        let mut versions = self.versions.lock();
        let found = Self::versions(&self.paths);
        if when == Reload::Always || *versions != found {
            *versions = found;
            read();
        }
    }

    fn versions(paths: &[PathBuf]) -> Vec<Option<Version>> {
        paths.iter().map(|path| Version::of(path).ok()).collect()
    }
}

impl Version {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device_and_inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// The bytes of a regular file; symbolic links are followed. Anything else is an error: a pipe would block until
/// somebody writes to it, and a device may have no end.
pub fn read_regular_file(path: &Path) -> io::Result<Vec<u8>> {
    let without_blocking = OFlags::NONBLOCK.bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(without_blocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
