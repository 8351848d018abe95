//! `mayfly key`: the keys that sign tokens.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, fchown},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use tempfile::NamedTempFile;

use super::outcome::{Failure, print};
use crate::{
    domain::{
        duration,
        jwk::{Algorithm, JwkSetError},
        key_rotation,
        keys::KeySet,
        life::Life,
    },
    service::Clock,
    watched_files::read_regular_file,
};

#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Make a JWK Set with one new key, for `MAYFLY_JWT_KEYS_FILE`
    Generate {
        /// Write the set to this new file, readable by its owner alone, instead of printing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        algorithm: AlgorithmChoice,
    },
    /// Add a new key in front of a set; the other keys go on verifying
    ///
    /// The new key signs once its delay is over. Running replicas read the changed file by themselves.
    Rotate {
        /// The file with the JWK Set, which is replaced atomically
        file: PathBuf,
        #[command(flatten)]
        algorithm: AlgorithmChoice,
        /// Set how long the new key only verifies before it signs
        ///
        /// Until then, each replica and each client that caches jwks.json must know it. The default is none for HS256,
        /// and 6 minutes for EdDSA and ES256, whose public keys are cached for 5 minutes. Where the file is copied to
        /// the replicas, as a Kubernetes secret is, add the time that the copies take.
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        delay: Option<Duration>,
    },
    /// Remove the keys that signed their last token longer ago than the maximum life of a token
    Prune {
        /// The file with the JWK Set, which is replaced atomically
        file: PathBuf,
        /// Set the maximum life of a token: MAYFLY_TOKEN_MAX_LIFE as it was when the key last signed
        #[arg(long, value_name = "LIFE", value_parser = Life::parse)]
        older_than: Life,
    },
}

#[derive(Args)]
pub(super) struct AlgorithmChoice {
    /// Set the algorithm: HS256, EdDSA or ES256
    ///
    /// HS256 is the fastest. Tokens of EdDSA and ES256 can be verified by others, with jwks.json. The default is the
    /// algorithm of the key that signs now, and HS256 for a new set.
    #[arg(long = "alg", value_name = "ALGORITHM")]
    algorithm: Option<Algorithm>,
}

impl KeyCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        let now = Clock::system().unix_seconds();
        match self {
            Self::Generate { out, algorithm } => {
                let set = key_rotation::generate(algorithm.algorithm.unwrap_or(Algorithm::Hs256), now);
                match out {
                    Some(file) => create_file(&file, &set),
                    None => print(set.expose_secret()),
                }
            }
            Self::Rotate { file, algorithm, delay } => {
                let _lock = lock_directory(&file)?;
                let set = read_set(&file)?;
                let rotated = key_rotation::rotate(set.expose_secret(), algorithm.algorithm, now, delay);
                replace_file(&file, &rotated.map_err(|error| invalid_set(&file, &error))?)
            }
            Self::Prune { file, older_than } => {
                let _lock = lock_directory(&file)?;
                let set = read_set(&file)?;
                let pruned = key_rotation::prune(set.expose_secret(), older_than.duration(), now);
                let (rest, removed) = pruned.map_err(|error| invalid_set(&file, &error))?;
                if !removed.is_empty() {
                    replace_file(&file, &rest)?;
                }
                removed.iter().try_for_each(|kid| print(&format!("removed {kid}\n")))
            }
        }
    }
}

/// Keeps other `mayfly key` commands from changing this file until the value is dropped. Locks the directory, because
/// the file itself is replaced.
fn lock_directory(file: &Path) -> Result<File, Failure> {
    let locked = file.canonicalize().and_then(|file| {
        let directory = File::open(file.parent().unwrap_or(Path::new(".")))?;
        directory.lock()?;
        Ok(directory)
    });
    locked.map_err(cannot("read", file))
}

/// Reads a set, which must be valid.
fn read_set(file: &Path) -> Result<SecretString, Failure> {
    let set = read_regular_file(file).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
    let set = SecretString::from(set.map_err(cannot("read", file))?);
    KeySet::parse(set.expose_secret()).map_err(|error| invalid_set(file, &error))?;
    Ok(set)
}

/// Creates a file that only its owner can read. Fails if a file of this name exists.
fn create_file(file: &Path, set: &SecretString) -> Result<(), Failure> {
    let created = (|| {
        let new = write_beside(file, set)?;
        new.as_file().sync_all()?;
        new.persist_noclobber(file)?;
        Ok(())
    })();
    created.map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let file = file.display();
            Failure::Runtime(format!(
                "{file} exists already, and its keys may have signed live tokens: `mayfly key rotate {file}` adds one"
            ))
        }
        _ => cannot("write", file)(error),
    })
}

/// Writes a temporary file, which only its owner can read, in the directory of this file.
fn write_beside(file: &Path, set: &SecretString) -> io::Result<NamedTempFile> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = NamedTempFile::new_in(directory)?;
    new.write_all(set.expose_secret().as_bytes())?;
    Ok(new)
}

/// Replaces a file atomically, and keeps its owner and permissions.
fn replace_file(file: &Path, set: &SecretString) -> Result<(), Failure> {
    let replaced = (|| {
        // The target of a symbolic link is replaced, and the link stays.
        let file = file.canonicalize()?;
        let new = write_beside(&file, set)?;
        let old = fs::metadata(&file)?;
        let made = new.as_file().metadata()?;
        if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
            fchown(new.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
        new.as_file().set_permissions(old.permissions())?;
        new.as_file().sync_all()?;
        new.persist(&file)?;
        Ok(())
    })();
    replaced.map_err(cannot("replace", file))
}

/// Returns the failure of an action on this file, for its error: "cannot read keys.json: …".
fn cannot(action: &'static str, file: &Path) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::Runtime(format!("cannot {action} {}: {error}", file.display()))
}

/// Returns the failure for a file without a valid set.
fn invalid_set(file: &Path, error: &JwkSetError) -> Failure {
    Failure::Runtime(format!("{}: {error}", file.display()))
}
