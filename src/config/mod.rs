//! Every setting once: its flag, its variable, its default, its bounds and its help, in one file a subject.
//!
//! clap parses the values, each by its own parser; [`parse`] makes it report all errors instead of the first.
//! [`Config::load`] adds what depends on several settings.

use std::{
    env,
    error::Error as _,
    ffi::{OsStr, OsString},
    sync::Arc,
    time::Duration,
};

use clap::{
    ArgMatches, Args, Command,
    builder::Resettable,
    error::{ContextKind, ContextValue},
};

pub use self::{
    client::{ClientSettings, ServiceUrl},
    environment::{Environment, environment},
    errors::ConfigErrors,
    lifecycle::LifecycleSettings,
    network::{ListenSettings, NetworkSettings},
    passwords::{AdminConfig, AdminPassword, PasswordSettings},
    store::{StoreConfig, StoreSettings},
    values::{read_secret, secret_line},
};
use crate::{
    domain::{password::HashCost, token::TokenPolicy},
    http::BrowserAccess,
    server::tls::Certificate,
    service::{issuers::TrustedIssuers, signing_keys::SigningKeys},
    telemetry::{self, otlp},
};

mod client;
mod environment;
mod errors;
mod issuers;
mod lifecycle;
mod logging;
mod network;
mod passwords;
mod store;
mod tokens;
mod values;

/// Printed under the help of all settings: the variables that have no flag.
pub const VARIABLES_HELP: &str = "\
Set secrets by a variable or a file, never by an argument, which every user of the machine can see:
      MAYFLY_ADMIN_PASSWORD
          The password of the first administrator

Set OpenTelemetry's variables to send traces, metrics and logs to a collector:
      OTEL_EXPORTER_OTLP_ENDPOINT
          The collector, such as http://localhost:4318 (OTLP over HTTP)";

/// The settings of the service, each valid by itself.
#[derive(Clone, Args)]
pub struct Settings {
    #[command(flatten)]
    network: NetworkSettings,
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    tokens: tokens::TokenSettings,
    #[command(flatten)]
    passwords: PasswordSettings,
    #[command(flatten)]
    admin: passwords::AdminSettings,
    #[command(flatten)]
    issuers: issuers::IssuerSettings,
    #[command(flatten)]
    lifecycle: LifecycleSettings,
    #[command(flatten)]
    log: logging::LogSettings,
}

/// The settings, checked against each other, and the values made from them.
pub struct Config {
    /// Listening and proxies.
    pub network: NetworkSettings,
    /// The certificate of the service; `None`: it speaks plain HTTP.
    pub certificate: Option<Arc<Certificate>>,
    /// Readiness and shutdown.
    pub lifecycle: LifecycleSettings,
    /// Where users and tokens are kept.
    pub store: StoreConfig,
    /// The keys that sign tokens.
    pub keys: Arc<SigningKeys>,
    /// The issuers whose JWTs log in.
    pub issuers: TrustedIssuers,
    /// How long a read from the store may be used without a renewal; zero: the store is asked each time.
    pub lease: Duration,
    /// The memory for cached tokens, in bytes.
    pub cache_memory: usize,
    /// The limits of tokens, and their issuer.
    pub token_policy: TokenPolicy,
    /// The first administrator.
    pub admin: AdminConfig,
    /// The cost of a password's hash.
    pub hash_cost: HashCost,
    /// The access of browsers: the documentation, and the pages of other sites.
    pub browser: BrowserAccess,
    /// The log and the collector.
    pub telemetry: telemetry::Settings,
}

/// Parses the arguments and variables, of which empty ones count as unset. Returns the errors of all settings, each of
/// which has its default instead; clap by itself reports only the first.
///
/// Exits as clap does if the arguments are wrong in another way, or ask for help.
pub fn parse(command: Command, mut arguments: Vec<OsString>) -> (ArgMatches, ConfigErrors) {
    let is_empty = |variable: &OsStr| env::var_os(variable).is_some_and(|value| value.is_empty());
    let mut command = without_variables(command, &is_empty);
    let mut errors = ConfigErrors::default();
    loop {
        let error = match command.clone().try_get_matches_from(&arguments) {
            Ok(matches) => return (matches, errors),
            Err(error) => error,
        };
        let (Some(ContextValue::String(usage)), Some(source)) = (error.get(ContextKind::InvalidArg), error.source())
        else {
            error.exit()
        };
        let flag = usage.split(' ').next().unwrap_or_default();
        let variable = flag.replacen("--", "MAYFLY_", 1).replace('-', "_").to_uppercase();
        if !has_variable::<Settings>(&variable) || errors.contains(&variable) {
            error.exit();
        }
        errors.add(&variable, source);
        command = without_variables(command, &|name: &OsStr| name == &*variable);
        remove_flag(&mut arguments, flag);
    }
}

/// Returns whether this is the variable of one of these settings.
fn has_variable<S: Args>(variable: &str) -> bool {
    let command = S::augment_args(Command::new(""));
    command.get_arguments().any(|setting| setting.get_env() == Some(OsStr::new(variable)))
}

/// Makes clap ignore these variables, also in subcommands.
fn without_variables(command: Command, ignored: &impl Fn(&OsStr) -> bool) -> Command {
    let command = command.mut_args(|argument| {
        if argument.get_env().is_some_and(ignored) { argument.env(Resettable::Reset) } else { argument }
    });
    command.mut_subcommands(|subcommand| without_variables(subcommand, ignored))
}

/// Removes each `--flag value` and `--flag=value` of this flag.
fn remove_flag(arguments: &mut Vec<OsString>, flag: &str) {
    let is_flag = |argument: &OsString| argument.to_string_lossy().split('=').next() == Some(flag);
    while let Some(index) = arguments.iter().position(is_flag) {
        let length = if arguments[index] == flag { 2 } else { 1 };
        arguments.drain(index..(index + length).min(arguments.len()));
    }
}

impl Config {
    /// Checks the settings against each other, and adds the secrets of the environment. `errors` are those of
    /// [`parse`].
    pub fn load(settings: Settings, environment: &Environment, mut errors: ConfigErrors) -> Result<Self, ConfigErrors> {
        let Settings { mut network, store, tokens, passwords, admin, issuers, lifecycle, log } = settings;
        let is_known = |name: &&str| has_variable::<Settings>(name) || has_variable::<ClientSettings>(name);
        for name in environment::setting_variables(environment).filter(|name| !is_known(name)) {
            errors.add_without_flag(name, "there is no such setting");
        }
        let certificate = errors.ok_or_add("MAYFLY_TLS_CERT", network.certificate());
        if let Some(proxies) = errors.ok_or_add("MAYFLY_TRUSTED_USER_HEADER", network.proxies()) {
            network.trusted_proxies = proxies;
        }
        let store = store.load(&mut errors);
        let is_embedded = matches!(store, StoreConfig::Memory);
        let keys = errors.ok_or_add("MAYFLY_JWT_KEYS_FILE", tokens.keys(!is_embedded));
        let issuers = errors.ok_or_add("MAYFLY_ISSUERS_FILE", issuers.issuers(tokens.jwt_issuer.as_deref()));
        let admin_password = admin.password(is_embedded, environment, &mut errors);
        let otlp = environment.iter().filter(|(name, _)| name.starts_with("OTEL_"));
        let otlp = otlp.map(|(name, value)| (name.clone(), value.to_string_lossy().into_owned())).collect();
        let telemetry = telemetry::Settings { log: log.log, log_format: log.log_format, otlp: otlp::Variables(otlp) };
        let config = certificate.zip(keys).zip(issuers).map(|((certificate, keys), issuers)| Self {
            browser: BrowserAccess { docs: network.docs, page: network.ui, cors_origins: network.cors_origins.clone() },
            network,
            certificate,
            lifecycle,
            store,
            keys,
            issuers,
            lease: tokens.lease,
            cache_memory: tokens.cache_memory,
            token_policy: TokenPolicy {
                max_life: tokens.token_max_life,
                quota: tokens.token_quota,
                issuer: tokens.jwt_issuer,
            },
            admin: AdminConfig { name: admin.admin_name, password: admin_password },
            hash_cost: passwords.password_cost,
            telemetry,
        });
        errors.into_result(config)
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn load(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        let arguments = ["mayfly"].iter().chain(arguments).map(Into::into).collect();
        let (matches, errors) = parse(Settings::augment_args(Command::new("mayfly")), arguments);
        let settings = Settings::from_arg_matches(&matches).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        Config::load(settings, &environment, errors)
    }

    #[test]
    fn nothing_set_is_a_good_configuration() {
        let config = load(&[], &[]).unwrap();
        assert_eq!(config.network.endpoint.listen.to_string(), "127.0.0.1:25441");
        assert!(matches!(config.store, StoreConfig::Memory));
        assert!(matches!(config.admin.password, AdminPassword::Generated(_)));
        assert_eq!((config.token_policy.quota, config.token_policy.max_life.seconds()), (1000, 31_557_600));
        assert_eq!(config.cache_memory, 64 << 20);
    }

    #[test]
    fn all_errors_are_reported_at_once() {
        let errors = load(
            &[
                "--listen=here",
                "--tls-cert=/nowhere",
                "--max-connections=0",
                "--redis-url=http://user:hunter2@redis",
                "--redis-timeout=0s",
                "--redis-wait-replicas=-1",
                "--redis-wait-timeout=x",
                "--redis-password-file=/nowhere",
                "--redis-ca-file=/nowhere",
                "--redis-cert-file=/nowhere",
                "--unready-after=0s",
                "--shutdown-delay=soon",
                "--token-max-life=1M",
                "--token-quota=0",
                "--lease=251ms",
                "--cache-memory=1000",
                "--docs=maybe",
                "--password-cost=m=1",
                "--cors-origins=https://console.example, console.example/",
                "--trusted-proxies=10.0.0.0/8, load-balancer",
                "--admin-name=a:b",
                "--admin-password-file=/nowhere",
                "--jwt-issuer=",
                "--issuers-file=/nowhere",
                "--log=a=b=c",
                "--shutdown-grace=soon",
                "--metrics-listen=there",
                "--log-format=xml",
            ],
            &[
                ("MAYFLY_TOKEN_QOUTA", "5"),
                ("MAYFLY_LISTEN_PORT", "80"),
                ("MAYFLY_PORT", "tcp://10.0.0.1:80"),
                ("MAYFLY_SERVICE_HOST", "10.0.0.1"),
            ],
        )
        .err()
        .unwrap()
        .to_string();
        for variable in [
            "MAYFLY_LISTEN (--listen)",
            "MAYFLY_TLS_CERT (--tls-cert): goes with MAYFLY_TLS_KEY",
            "MAYFLY_MAX_CONNECTIONS",
            "MAYFLY_REDIS_URL",
            "MAYFLY_REDIS_TIMEOUT",
            "MAYFLY_REDIS_WAIT_REPLICAS",
            "MAYFLY_REDIS_WAIT_TIMEOUT",
            "MAYFLY_REDIS_PASSWORD_FILE",
            "MAYFLY_REDIS_CA_FILE",
            "MAYFLY_REDIS_CERT_FILE",
            "MAYFLY_UNREADY_AFTER",
            "MAYFLY_SHUTDOWN_DELAY",
            "MAYFLY_JWT_KEYS_FILE",
            "MAYFLY_TOKEN_MAX_LIFE",
            "MAYFLY_TOKEN_QUOTA",
            "MAYFLY_LEASE",
            "MAYFLY_CACHE_MEMORY (--cache-memory): \"1000\" is not a size such as 64 MiB, from 1.0 MiB to 64.0 GiB",
            "MAYFLY_DOCS",
            "MAYFLY_PASSWORD_COST",
            "MAYFLY_CORS_ORIGINS (--cors-origins): \"console.example/\"",
            "MAYFLY_TRUSTED_PROXIES (--trusted-proxies): \"load-balancer\"",
            "MAYFLY_ADMIN_NAME",
            "MAYFLY_ADMIN_PASSWORD_FILE",
            "MAYFLY_JWT_ISSUER",
            "MAYFLY_ISSUERS_FILE (--issuers-file): cannot read /nowhere",
            "MAYFLY_LOG (",
            "MAYFLY_SHUTDOWN_GRACE",
            "MAYFLY_METRICS_LISTEN (--metrics-listen)",
            "MAYFLY_LOG_FORMAT",
            "MAYFLY_TOKEN_QOUTA: there is no such setting",
            "MAYFLY_LISTEN_PORT: there is no such setting",
        ] {
            assert!(errors.contains(variable), "{variable} in:\n{errors}");
        }
        assert_eq!(errors.lines().count(), 33, "{errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
    }

    #[test]
    fn every_kind_of_redis_has_a_url() {
        let load = |arguments: &[&str]| {
            let errors = load(arguments, &[]).err().unwrap().to_string();
            errors.lines().find(|line| line.contains("MAYFLY_REDIS")).map(str::to_owned)
        };
        for url in [
            "redis://redis",
            "redis://user:p%40ss@[::1]:6379/1",
            "rediss://redis:6380",
            "unix:///run/redis.sock?db=1&user=a&pass=b",
            "redis+sentinel://a:26379,b:26379,c/tokens",
            "rediss+sentinel://user:password@a:26379/tokens/1",
            "redis+cluster://a:6379,b:6379",
            "rediss+cluster://user:password@a:6379/",
        ] {
            assert_eq!(load(&[&format!("--redis-url={url}")]), None, "{url}");
        }
        for url in [
            "redis",
            "http://redis",
            "redis://",
            "redis+sentinel://a:26379,b:26379",
            "redis+sentinel://a:26379/",
            "redis+sentinel://,b/tokens",
            "redis+sentinel://a/tokens/one",
            "redis+cluster://",
            "redis+cluster://a:port",
            "redis+unknown://a",
        ] {
            let error = load(&[&format!("--redis-url={url}")]).expect(url);
            assert!(error.contains("MAYFLY_REDIS_URL (--redis-url): not a URL such as"), "{url}: {error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let file = file.path().display();
        let (password, authorities) = (format!("--redis-password-file={file}"), format!("--redis-ca-file={file}"));
        for (arguments, expected) in [
            (["--redis-url=redis://:hunter2@redis", &password], "the URL holds a password already"),
            (["--redis-url=redis://redis", &authorities], "certificates are for rediss:// URLs"),
            (["--redis-url=rediss+cluster://redis", &authorities], "SSL_CERT_FILE adds one"),
            (["--redis-url=redis://redis", "--redis-wait-timeout=1s"], "not less than MAYFLY_REDIS_TIMEOUT"),
            (["--redis-url=redis://redis", "--redis-key-file=x"], "neither without the other"),
        ] {
            let error = load(&arguments).unwrap();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn redis_needs_a_key_file() {
        let errors = load(&["--redis-url=redis://127.0.0.1"], &[]).err().unwrap().to_string();
        assert!(errors.contains("`mayfly key generate --out keys.json` makes one"), "{errors}");
    }

    #[test]
    fn the_password_comes_from_one_place() {
        let both = load(&["--admin-password-file=/nowhere"], &[("MAYFLY_ADMIN_PASSWORD", "hunter2")]);
        assert!(both.err().unwrap().to_string().contains("not both"));
        let variable = load(&["--lease=0"], &[("MAYFLY_ADMIN_PASSWORD", "hunter2")]).unwrap();
        assert!(matches!(variable.admin.password, AdminPassword::Variable(_)));
    }
}
