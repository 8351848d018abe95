//! The file of trusted issuers.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    domain::{
        issuer::Issuer,
        issuers_file::{self, IssuersFileError},
    },
    watched_files::{Exposure, read_regular_file},
};

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
