//! Who calls the service.

use std::{
    fmt::Display,
    io::{self, IsTerminal},
    path::Path,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use secrecy::{ExposeSecret, SecretString};
use tokio::task::spawn_blocking;

use super::{
    api::{Api, agent},
    netrc::{self, Entry},
};
use crate::{
    cli::{interruptible::in_thread, outcome::Failure, password_prompt},
    config::{ClientSettings, ServiceUrl, read_secret, secret_line},
    fetch::trusted_roots,
};

/// The service that `mayfly serve` runs by default.
const DEFAULT_URL: &str = "http://127.0.0.1:25441";

fn usage(error: impl Display) -> Failure {
    Failure::Usage(error.to_string())
}

/// Logs in as the user, or with a token of a trusted issuer where no user is set.
pub(in crate::cli) async fn log_in(settings: &ClientSettings) -> Result<Api, Failure> {
    let url = url(settings)?;
    let authorization = match &settings.token_file {
        Some(file) if settings.user.is_none() => bearer(&read_secret(file).map_err(usage)?),
        _ => basic(settings, &url).await?,
    };
    connect(settings, url, authorization).await
}

/// Presents the token in the file of the settings, or else the one at standard input.
pub(super) async fn present_token(settings: &ClientSettings) -> Result<Api, Failure> {
    let url = url(settings)?;
    let token = match &settings.token_file {
        Some(file) => read_secret(file).map_err(usage)?,
        None if io::stdin().is_terminal() => {
            return Err(usage(
                "there is no token: set MAYFLY_TOKEN_FILE (--token-file), or write it to standard input",
            ));
        }
        None => {
            let text = in_thread(|| io::read_to_string(io::stdin()).map(SecretString::from)).await?;
            let token = secret_line(text.expose_secret()).map_err(|error| usage(format!("the token: {error}")))?;
            if token.trim().is_empty() {
                return Err(usage("standard input has no token"));
            }
            token.into()
        }
    };
    connect(settings, url, bearer(&token)).await
}

/// The URL of the settings, to which secrets may be sent.
fn url(settings: &ClientSettings) -> Result<ServiceUrl, Failure> {
    let url = settings.url.clone().unwrap_or_else(|| DEFAULT_URL.parse().expect("it is a URL"));
    if url.is_private() || settings.allow_http {
        return Ok(url);
    }
    Err(usage(format!(
        "{url} is plain HTTP, and others on the network could read the password. Use https://, or allow it with \
         --allow-http (MAYFLY_ALLOW_HTTP=on)"
    )))
}

async fn connect(settings: &ClientSettings, url: ServiceUrl, authorization: SecretString) -> Result<Api, Failure> {
    let file = settings.ca_file.clone();
    let roots = spawn_blocking(move || {
        let name = |error| usage(format!("MAYFLY_CA_FILE (--ca-file): {}: {error}", shown(file.as_deref())));
        trusted_roots(file.as_deref()).map_err(name)
    });
    let roots = roots.await.map_err(io::Error::other)??;
    let agent = agent(Some(roots), settings.timeout, url.is_loopback());
    Ok(Api::new(agent, url, settings.timeout, authorization))
}

fn shown(file: Option<&Path>) -> String {
    file.map(|file| file.display().to_string()).unwrap_or_default()
}

/// The user and the password of the settings, of `~/.netrc` or of the prompt.
async fn basic(settings: &ClientSettings, url: &ServiceUrl) -> Result<SecretString, Failure> {
    let named = settings.user.as_ref().map(ToString::to_string);
    let Entry { login, password } = netrc::find(url.host(), named.as_deref())?;
    let Some(user) = named.or(login) else {
        return Err(usage(format!(
            "there is no user: set MAYFLY_USER (--user), or name the user of {} in ~/.netrc",
            url.host()
        )));
    };
    let password = match (&settings.password_file, password) {
        (Some(file), _) => read_secret(file).map_err(usage)?,
        (None, Some(password)) => password,
        (None, None) if io::stdin().is_terminal() => {
            let typed = password_prompt::ask(&format!("Password of {user} at {url}: ")).await?;
            secret_line(typed.expose_secret()).map_err(|error| usage(format!("the password: {error}")))?.into()
        }
        (None, None) => {
            return Err(usage(format!(
                "there is no password: set MAYFLY_PASSWORD_FILE (--password-file), or write the password of {user} at \
                 {} into ~/.netrc",
                url.host()
            )));
        }
    };
    let credentials = SecretString::from(format!("{user}:{}", password.expose_secret()));
    Ok(format!("Basic {}", BASE64_STANDARD.encode(credentials.expose_secret())).into())
}

fn bearer(token: &SecretString) -> SecretString {
    format!("Bearer {}", token.expose_secret().trim()).into()
}
