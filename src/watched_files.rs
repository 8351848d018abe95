//! Files that are read again when they change.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::{
    fs::{OFlags, StatVfsMountFlags, statvfs},
    process::{Gid, getegid, getgroups},
};

/// How often the callers of [`WatchedFiles::reload`] check files for changes.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// When [`WatchedFiles::reload`] calls its `read`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// Only if a file changed since the last call of `read`.
    IfChanged,
    /// In any case: the operator asked for it (SIGHUP).
    Always,
}

/// Files that are read together.
pub struct WatchedFiles {
    paths: Vec<PathBuf>,
    /// The version of each file when the files were last read, successfully or not; `None`: the file was not found.
    versions_read: Mutex<Vec<Option<FileVersion>>>,
}

/// The metadata that differ between two versions of a file: a change is noticed without reading the file. A new version
/// of a mounted Kubernetes secret is another inode behind the same symbolic links.
#[derive(PartialEq, Eq)]
struct FileVersion {
    device_and_inode: (u64, u64),
    size: u64,
    /// In seconds and nanoseconds. Changes with the content, the permissions and the owner of the file.
    ctime: (i64, i64),
}

impl WatchedFiles {
    /// Notes the versions of these files. Call this before they are first read, so that no change in between is missed.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths: Vec<_> = paths.into_iter().collect();
        let versions_read = Mutex::new(Self::current_versions(&paths));
        Self { paths, versions_read }
    }

    /// Calls `read` if one of the files changed, or always. Never runs two calls at the same time. Blocks on the file
    /// system.
    pub fn reload(&self, when: Reload, read: impl FnOnce()) {
        let mut versions_read = self.versions_read.lock();
        let current = Self::current_versions(&self.paths);
        if when == Reload::Always || *versions_read != current {
            *versions_read = current;
            read();
        }
    }

    fn current_versions(paths: &[PathBuf]) -> Vec<Option<FileVersion>> {
        paths.iter().map(|path| FileVersion::of(path).ok()).collect()
    }
}

impl FileVersion {
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
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The permissions that other users have on a file.
pub struct Exposure {
    /// They can write it.
    pub write: bool,
    /// They can read it.
    pub read: bool,
}

impl Exposure {
    /// Other users are all users except the owner. For `read`, the file's group does not count if this process is in
    /// that group, as with a Secret that Kubernetes mounts. On a read-only mount, as containers have for secrets,
    /// permissions do not say who has access: there, other users count as without any.
    pub fn of(path: &Path) -> io::Result<Self> {
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
