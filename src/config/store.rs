//! The settings of the store of users and tokens.

use std::{sync::Arc, time::Duration};

use clap::Args;
use secrecy::{SecretSlice, SecretString};

use super::{
    errors::ConfigErrors,
    values::{file, number, read_file, read_secret, text, timeout},
};
use crate::store::{
    RevokingWrites,
    memory::MemoryStore,
    redis::{AddressError, RedisOptions, RedisStore, TlsFiles},
};

/// The settings of the store of users and tokens.
#[derive(Clone, Args)]
#[command(next_help_heading = "Redis")]
#[expect(clippy::struct_field_names, reason = "a flag has the name of its field")]
pub struct StoreSettings {
    /// Set the Redis (7.0 or later) that keeps users and tokens
    ///
    /// Without it, they are kept in memory and lost when the service stops. The forms, of which only the hosts and the
    /// service of Sentinel are required:
    ///
    /// redis://user:password@host:port/db (rediss:// with TLS),
    /// unix:///path/of/socket?db=0&user=name&pass=password,
    /// redis+sentinel://user:password@host:port,host:port/service/db,
    /// redis+cluster://user:password@host:port,host:port
    ///
    /// Use the variable for a URL with a password: other users of the machine can see flags.
    #[arg(long, env = "MAYFLY_REDIS_URL", value_name = "URL", hide_env_values = true)]
    #[arg(value_parser = text(|url| Ok::<_, String>(SecretString::from(url))))]
    redis_url: Option<SecretString>,

    /// Set the file with the password for Redis, instead of writing it in the URL
    #[arg(long, env = "MAYFLY_REDIS_PASSWORD_FILE", value_name = "FILE", value_parser = file(read_secret))]
    redis_password_file: Option<SecretString>,

    /// Set the authorities to trust with rediss:// instead of the system's, a PEM file
    #[arg(long, env = "MAYFLY_REDIS_CA_FILE", value_name = "FILE", value_parser = file(read_file))]
    redis_ca_file: Option<Pem>,

    /// Set the client certificate for rediss://, a PEM file
    #[arg(long, env = "MAYFLY_REDIS_CERT_FILE", value_name = "FILE", value_parser = file(read_file))]
    redis_cert_file: Option<Pem>,

    /// Set the private key of the client certificate, a PEM file
    #[arg(long, env = "MAYFLY_REDIS_KEY_FILE", value_name = "FILE")]
    #[arg(value_parser = file(|path| read_file(path).map(SecretSlice::from)))]
    redis_key_file: Option<SecretSlice<u8>>,

    /// Set how long an operation of Redis may take, connecting included, from 1ms to 1h
    #[arg(long, env = "MAYFLY_REDIS_TIMEOUT", value_name = "DURATION", default_value = "1s", value_parser = timeout())]
    redis_timeout: Duration,

    /// Set how many replicas of Redis must have a change before it is answered, up to 16
    ///
    /// Where fewer have it in time, the answer is 503, and the request can be repeated safely. Set it to the number of
    /// replicas that can be promoted, so that no failover brings a revoked token back; with fewer, Sentinel may promote
    /// one without the change.
    #[arg(long, env = "MAYFLY_REDIS_WAIT_REPLICAS", value_name = "NUMBER", default_value = "0")]
    #[arg(value_parser = number(0_u32..=16))]
    redis_wait_replicas: u32,

    /// Set how long to wait for these replicas; less than MAYFLY_REDIS_TIMEOUT
    #[arg(long, env = "MAYFLY_REDIS_WAIT_TIMEOUT", value_name = "DURATION", default_value = "500ms")]
    #[arg(value_parser = timeout())]
    redis_wait_timeout: Duration,
}

/// The bytes of a PEM file. An alias, because clap reads a field of type `Vec` as a list of values.
type Pem = Vec<u8>;

/// Where users and tokens are kept.
pub enum StoreConfig {
    /// In the memory of this process.
    Memory,
    /// In Redis.
    Redis(RedisOptions),
}

impl StoreSettings {
    /// Checks the settings against each other, and adds what is wrong to `errors`.
    pub fn load(self, errors: &mut ConfigErrors) -> StoreConfig {
        if self.redis_wait_timeout >= self.redis_timeout && !errors.contains("MAYFLY_REDIS_TIMEOUT") {
            errors.add("MAYFLY_REDIS_WAIT_TIMEOUT", "not less than MAYFLY_REDIS_TIMEOUT");
        }
        let has_certificate = self.redis_cert_file.is_some() || errors.contains("MAYFLY_REDIS_CERT_FILE");
        let has_key = self.redis_key_file.is_some() || errors.contains("MAYFLY_REDIS_KEY_FILE");
        if has_certificate != has_key {
            errors.add("MAYFLY_REDIS_CERT_FILE", "goes with MAYFLY_REDIS_KEY_FILE, and neither without the other");
        }
        let Some(url) = self.redis_url else { return StoreConfig::Memory };
        let options = RedisOptions {
            url,
            password: self.redis_password_file,
            tls: TlsFiles { authorities: self.redis_ca_file, client: self.redis_cert_file.zip(self.redis_key_file) },
            timeout: self.redis_timeout,
            wait_replicas: self.redis_wait_replicas,
            wait_timeout: self.redis_wait_timeout,
        };
        if let Err(error) = RedisStore::new(&options) {
            let variable = match error {
                AddressError::Url => "MAYFLY_REDIS_URL",
                AddressError::TwoPasswords => "MAYFLY_REDIS_PASSWORD_FILE",
                AddressError::Plain | AddressError::SystemTrust | AddressError::Certificates => "MAYFLY_REDIS_CA_FILE",
            };
            errors.add(variable, error);
        }
        StoreConfig::Redis(options)
    }
}

impl StoreConfig {
    /// Opens the store, without connecting yet.
    ///
    /// # Panics
    /// Never, with options that were loaded without errors.
    pub fn open(&self) -> Arc<dyn RevokingWrites> {
        match self {
            Self::Memory => Arc::new(MemoryStore::default()),
            Self::Redis(options) => Arc::new(RedisStore::new(options).expect("the options were checked")),
        }
    }
}
