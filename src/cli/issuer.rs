//! `mayfly issuer`: the trusted issuers.

use std::{
    fmt::Write as _,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::Subcommand;

use super::outcome::{Failure, print};
use crate::{
    domain::{
        issuer::{Check, Issuer},
        issuer_jwt::{IssuerJwt, unverified_issuer},
    },
    service::{Clock, issuer_keys, issuers},
};

#[derive(Subcommand)]
pub(super) enum IssuerCommand {
    /// Check a file of trusted issuers, and say as whom a JWT would log in, or why it would not
    ///
    /// The keys are fetched as the service does it. The exit code is 0 if all is right.
    Check {
        /// The file, as in `MAYFLY_ISSUERS_FILE`
        file: PathBuf,
        /// A JWT of one of the issuers, or - to read it from standard input
        jwt: Option<String>,
    },
}

impl IssuerCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self::Check { file, jwt } = self;
        let issuers = issuers::read(&file, None).map_err(|error| match error {
            issuers::IssuersError::File(_, error) => {
                Failure::Runtime(format!("{}:\n  {}", file.display(), error.mistakes().join("\n  ")))
            }
            error => Failure::Runtime(error.to_string()),
        })?;
        match jwt.as_deref() {
            None => check_keys(&issuers),
            Some("-") => {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text)?;
                check_jwt(&file, &issuers, text.trim())
            }
            Some(jwt) => check_jwt(&file, &issuers, jwt),
        }
    }
}

/// Says of each issuer whether its keys can be had.
fn check_keys(issuers: &[Issuer]) -> Result<(), Failure> {
    let mut all_are_right = true;
    for (number, issuer) in (1..).zip(issuers) {
        let keys = match issuer_keys::load(&issuer.keys) {
            Ok(loaded) if loaded.set.is_empty() => Err("no key that can verify".to_owned()),
            Ok(loaded) => Ok(format!("{} keys at {}", loaded.set.len(), issuer.keys.location)),
            Err(error) => Err(error.to_string()),
        };
        all_are_right &= keys.is_ok();
        let (Ok(text) | Err(text)) = &keys;
        let verdict = if keys.is_ok() { "ok" } else { "FAILED" };
        print(&format!("issuer {number} ({}): {verdict}: {text}\n", issuer.name))?;
    }
    if all_are_right { Ok(()) } else { Err(Failure::Runtime("an issuer has no keys".into())) }
}

/// Says rule by rule what a JWT meets, for each entry of its issuer.
fn check_jwt(file: &Path, issuers: &[Issuer], jwt: &str) -> Result<(), Failure> {
    let jwt = jwt.strip_prefix("Bearer ").unwrap_or(jwt);
    let parsed = IssuerJwt::parse(jwt).map_err(|error| Failure::Runtime(error.to_string()))?;
    let name =
        unverified_issuer(jwt).ok_or_else(|| Failure::Runtime("the JWT has no \"iss\" that is a text".into()))?;
    let entries: Vec<_> = issuers.iter().filter(|issuer| issuer.name.as_str() == name).collect();
    let Some(first) = entries.first() else {
        let known = issuers.iter().map(|issuer| issuer.name.as_str()).collect::<Vec<_>>().join("\n  ");
        let file = file.display();
        return Err(Failure::Runtime(format!(
            "no issuer in {file} is exactly {name:?}, so this is no JWT of one of them:\n  {known}"
        )));
    };
    let signature = match issuer_keys::load(&first.keys) {
        Err(error) => Err(format!("there are no keys to check it: {error}")),
        Ok(loaded) => loaded.set.verify(&parsed).map(|()| parsed.key()).map_err(|error| error.to_string()),
    };
    let signature = Check { rule: "signature".into(), result: signature };
    let mut text = String::new();
    let mut admitted = None;
    for (number, issuer) in (1..).zip(issuers).filter(|(_, issuer)| issuer.name.as_str() == name) {
        writeln!(text, "issuer {number} ({name})").expect("a string takes any text");
        let checks = issuer.checks(&parsed.claims, Clock::system().unix_seconds());
        for Check { rule, result } in [signature.clone()].iter().chain(&checks) {
            let (Ok(found) | Err(found)) = result;
            let verdict = if result.is_ok() { "ok" } else { "FAILED" };
            writeln!(text, "  {rule}: {verdict}: {found}").expect("a string takes any text");
        }
        if [&signature].into_iter().chain(&checks).all(|check| check.result.is_ok()) {
            admitted = admitted.or(Some(issuer));
        }
    }
    print(&text)?;
    match admitted.map(|issuer| (issuer, issuer.user.name(&parsed.claims))) {
        Some((issuer, Ok(user))) => {
            let life = issuer.max_life.map_or("MAYFLY_TOKEN_MAX_LIFE".to_owned(), |life| life.to_string());
            let scopes = issuer.scopes.as_ref().map_or("any".to_owned(), |scopes| format!("{scopes:?}"));
            print(&format!(
                "It logs in as {user} (role {} where the user is new; tokens live at most {life}; scopes: {scopes}).\n",
                issuer.role
            ))
        }
        _ => Err(Failure::Runtime("the JWT does not log in".into())),
    }
}
