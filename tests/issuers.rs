//! Logins by JWTs of trusted issuers.

mod attacks;
mod check;
mod examples;
mod exchange;
mod faults;
mod login;

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::support::{
    Answer, Backend, Client, Log, Service, eventually,
    issuer::{IssuerKey, LocalIssuer},
};

const TOKEN: &str = "/api/v1alpha/token";
const USER: &str = "/api/v1alpha/user";
const VERIFY: &str = "/api/v1alpha/verify";
const EXCHANGE: &str = "/oauth2/token";

/// A service that trusts a file of issuers.
struct Trusting {
    service: Service,
    log: Log,
    file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Trusting {
    /// Starts a service with this file.
    fn start(backend: Backend, text: &str) -> Self {
        let (directory, log) = (tempfile::tempdir().unwrap(), Log::new());
        let file = directory.path().join("issuers.toml");
        fs::write(&file, text).unwrap();
        let service = Service::start_with(backend, |command| {
            command.env("MAYFLY_ISSUERS_FILE", &file).env("MAYFLY_LOG_FORMAT", "json").stderr(log.stdio());
        });
        Self { service, log, file, _directory: directory }
    }

    /// Replaces the file, as an editor does.
    fn replace(&self, text: &str) {
        let new = self.file.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.file).unwrap();
    }

    /// A client that presents this JWT.
    fn with(&self, jwt: &str) -> Client {
        self.service.client().with_bearer(jwt)
    }

    /// Lists the tokens of whom this JWT logs in.
    fn list(&self, jwt: &str) -> Answer {
        self.with(jwt).get(TOKEN).send()
    }

    /// Waits until the issuers answered once, so that the next JWT needs no fetch.
    fn wait_for_keys(&self, jwt: &str) {
        eventually("the keys are there", || (self.list(jwt).status == 200).then_some(()));
    }

    /// Exchanges a JWT, with these further fields.
    fn exchange(&self, jwt: &str, fields: &[(&str, &str)]) -> Answer {
        let common = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", jwt),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ];
        self.service.client().post_form(EXCHANGE, &[&common, fields].concat()).send()
    }
}

/// An issuer with one key.
fn issuer() -> (LocalIssuer, IssuerKey) {
    let key = IssuerKey::new("a", "ES256");
    (LocalIssuer::start(&[&key]), key)
}

/// These claims with another one.
fn with(claims: &Value, name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims.clone();
    claims[name] = value.into();
    claims
}

/// The body of a request for a token.
fn request(life: &str) -> Value {
    json!({"jwt_token_description": "by an issuer", "jwt_token_life": life})
}
