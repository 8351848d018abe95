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

#[derive(Args)]
pub(super) struct Key {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a JWK Set with one new key, for `MAYFLY_JWT_KEYS_FILE`
    Generate {
        /// Write it into this file, which must not exist, for its owner alone. Without it, the set is printed
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        algorithm: AlgorithmChoice,
    },
    /// Put a new key in front of a set: it signs once its delay is over, all others go on verifying. Replicas notice by themselves
    Rotate {
        /// The JWK Set, which is replaced in one step
        file: PathBuf,
        #[command(flatten)]
        algorithm: AlgorithmChoice,
        /// Let the new key only verify for so long, until each replica and each client that caches jwks.json knows it:
        /// nothing for HS256, and 6 minutes for EdDSA and ES256, whose public keys are cached for 5. Where the file is copied
        /// to the replicas, as a Kubernetes secret is, add the time that the copies take
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        delay: Option<Duration>,
    },
    /// Remove the keys that have signed nothing for longer than the longest life of a token
    Prune {
        /// The JWK Set, which is replaced in one step
        file: PathBuf,
        /// The longest life of a token: what MAYFLY_TOKEN_MAX_LIFE was when the key last signed
        #[arg(long, value_name = "LIFE", value_parser = Life::parse)]
        older_than: Life,
    },
}

#[derive(Args)]
struct AlgorithmChoice {
    /// How it signs: HS256 (the fastest), EdDSA or ES256 (others can verify by themselves, with jwks.json). Unless it is said,
    /// as the key did that signed before, and HS256 for the first
    #[arg(long = "alg", value_name = "ALGORITHM")]
    algorithm: Option<Algorithm>,
}

impl Key {
    pub(super) fn run(self) -> Result<(), Failure> {
        let now = Clock::system().unix_seconds();
        match self.command {
            Command::Generate { out, algorithm } => {
                let set = key_rotation::generate(algorithm.algorithm.unwrap_or(Algorithm::Hs256), now);
                match out {
                    Some(file) => create(&file, &set),
                    None => print(set.expose_secret()),
                }
            }
            Command::Rotate { file, algorithm, delay } => {
                let _alone = lock(&file)?;
                let set = read(&file)?;
                let rotated = key_rotation::rotate(set.expose_secret(), algorithm.algorithm, now, delay);
                replace(&file, &rotated.map_err(|error| broken(&file, &error))?)
            }
            Command::Prune { file, older_than } => {
                let _alone = lock(&file)?;
                let set = read(&file)?;
                let pruned = key_rotation::prune(set.expose_secret(), older_than.duration(), now);
                let (rest, removed) = pruned.map_err(|error| broken(&file, &error))?;
                if !removed.is_empty() {
                    replace(&file, &rest)?;
                }
                removed.iter().try_for_each(|kid| print(&format!("removed {kid}\n")))
            }
        }
    }
}

/// Waits until no other command changes this file, and keeps others waiting until the value is dropped. The directory is
/// locked, for the file itself is about to be another.
fn lock(file: &Path) -> Result<File, Failure> {
    let locked = file.canonicalize().and_then(|file| {
        let directory = File::open(file.parent().unwrap_or(Path::new(".")))?;
        directory.lock()?;
        Ok(directory)
    });
    locked.map_err(|error| Failure::Runtime(format!("cannot read {}: {error}", file.display())))
}

/// A set that the service would take.
fn read(file: &Path) -> Result<SecretString, Failure> {
    let set = read_regular_file(file).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
    let set = set.map(SecretString::from);
    let set = set.map_err(|error| Failure::Runtime(format!("cannot read {}: {error}", file.display())))?;
    KeySet::parse(set.expose_secret()).map_err(|error| broken(file, &error))?;
    Ok(set)
}

/// Makes a file that only its owner reads, unless there is one of this name.
fn create(file: &Path, set: &SecretString) -> Result<(), Failure> {
    let created = (|| {
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut new = NamedTempFile::new_in(directory)?;
        new.write_all(set.expose_secret().as_bytes())?;
        new.as_file().sync_all()?;
        new.persist_noclobber(file)?;
        Ok(())
    })();
    created.map_err(|error: io::Error| {
        let file = file.display();
        Failure::Runtime(match error.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("{file} exists already, and its keys may have signed live tokens: `mayfly key rotate {file}` adds one")
            }
            _ => format!("cannot write {file}: {error}"),
        })
    })
}

/// Puts a new file in the place of the old one, with its owner and permissions: who reads it at any moment sees all of one of them.
fn replace(file: &Path, set: &SecretString) -> Result<(), Failure> {
    let replaced = (|| {
        // The file itself, not the link to it.
        let file = file.canonicalize()?;
        let mut new = NamedTempFile::new_in(file.parent().unwrap_or(Path::new(".")))?;
        new.write_all(set.expose_secret().as_bytes())?;
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
    replaced.map_err(|error: io::Error| Failure::Runtime(format!("cannot replace {}: {error}", file.display())))
}

fn broken(file: &Path, error: &JwkSetError) -> Failure {
    Failure::Runtime(format!("{}: {error}", file.display()))
}
