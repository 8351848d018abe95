//! Every setting once: its flag, its variable, its default and what it does.
//!
//! clap reads them as text, so that [`Config::load`] can report all mistakes at once instead of the first.

use std::{
    any::TypeId,
    collections::BTreeMap,
    env,
    ffi::{OsStr, OsString},
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use clap::{Arg, Args, Command, builder::Resettable};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    domain::{
        duration,
        jwk::{self, Algorithm},
        keys::KeySet,
        life::Life,
        password::{HashCost, Password, PasswordError},
        token::TokenRules,
        user::UserName,
    },
    http::{BrowserAccess, HeaderValue, TrustedProxies},
    server::tls::Certificate,
    service::{Clock, signing_keys::SigningKeys},
    store::{
        StrictWrites,
        leased::LEASE,
        memory::MemoryStore,
        redis::{AddressError, RedisOptions, RedisStore, TlsFiles},
    },
    telemetry::{self, Otlp},
};

const ADMIN_PASSWORD: &str = "MAYFLY_ADMIN_PASSWORD";

/// Said under the help of all settings.
pub const HELP_OF_SECRETS: &str = "\
Secrets are never taken from an argument, which every user of the machine can see:
      MAYFLY_ADMIN_PASSWORD
          The password of the first administrator

Traces, metrics and logs are sent to a collector where OpenTelemetry's variables ask for it:
      OTEL_EXPORTER_OTLP_ENDPOINT
          The collector, such as http://localhost:4318 (OTLP over HTTP); the other variables of the specification hold, too";

/// The settings of the service.
#[derive(Clone, Args)]
pub struct Settings {
    /// The address and port to listen on
    #[arg(long, env = "MAYFLY_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:25441")]
    listen: String,

    /// A certificate for TLS, with those of its authorities after it, as PEM. It is read again when it changes. Without it,
    /// HTTP is plain
    #[arg(long, env = "MAYFLY_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The key of that certificate, as PEM
    #[arg(long, env = "MAYFLY_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// The most connections at once. Where all are taken, a new one takes the place of the one that has waited for its client
    /// for longest. The connections of one IPv4 address or IPv6 /64 are at most half of them, unless it is one of
    /// MAYFLY_TRUSTED_PROXIES. Each needs an open file, and the limit of those is raised as far as the system allows
    #[arg(long, env = "MAYFLY_MAX_CONNECTIONS", value_name = "NUMBER", default_value = "16384")]
    max_connections: String,

    #[command(flatten)]
    store: StoreSettings,

    #[command(flatten)]
    passwords: PasswordSettings,

    /// A JWK Set; its first key signs tokens, all of them verify. `mayfly key generate` makes one. It is read again when it
    /// changes. Required with Redis; without, a key is made that is gone when the service stops
    #[arg(long, env = "MAYFLY_JWT_KEYS_FILE", value_name = "FILE")]
    jwt_keys_file: Option<PathBuf>,

    /// The issuer to name in tokens, as their `iss`
    #[arg(long, env = "MAYFLY_JWT_ISSUER", value_name = "TEXT")]
    jwt_issuer: Option<String>,

    /// For how long a token that was verified may be accepted again without asking Redis: up to 250ms, which each revocation
    /// waits out; 0 asks each time
    #[arg(long, env = "MAYFLY_LEASE", value_name = "DURATION", default_value = "250ms")]
    lease: String,

    /// The longest life of a token
    #[arg(long, env = "MAYFLY_TOKEN_MAX_LIFE", value_name = "LIFE", default_value = "1 year")]
    token_max_life: String,

    /// The most live tokens of one user
    #[arg(long, env = "MAYFLY_TOKEN_QUOTA", value_name = "NUMBER", default_value = "1000")]
    token_quota: String,

    /// The name of the first administrator, who is added where there is no user at all
    #[arg(long, env = "MAYFLY_ADMIN_NAME", value_name = "NAME", default_value = "admin")]
    admin_name: String,

    /// A file with the password of the first administrator. Without it and MAYFLY_ADMIN_PASSWORD, the embedded store
    /// gets one with a random password, and Redis none
    #[arg(long, env = "MAYFLY_ADMIN_PASSWORD_FILE", value_name = "FILE")]
    admin_password_file: Option<PathBuf>,

    /// Whether to show the documentation at /docs, /openapi.json and /openapi.yaml: on or off
    #[arg(long, env = "MAYFLY_DOCS", value_name = "SWITCH", default_value = "on")]
    docs: String,

    /// The sites whose pages may use the API from a browser, separated by commas: `https://console.example`
    #[arg(long, env = "MAYFLY_CORS_ORIGINS", value_name = "ORIGINS", default_value = "")]
    cors_origins: String,

    /// The load balancers and proxies in front, as addresses and networks separated by commas: `10.0.0.5,2001:db8::/64`. What
    /// they say in X-Forwarded-For or Forwarded is where a request comes from, in the log and where failed logins are
    /// counted; nobody else is believed. Everybody in these networks can claim any address, and so guess passwords without
    /// ever waiting: name the proxies alone. A proxy must replace one of the headers, whatever a client wrote there, and
    /// drop the other. X-Forwarded-Proto, or proto in Forwarded, says whether the URLs of the metadata begin with https
    #[arg(long, env = "MAYFLY_TRUSTED_PROXIES", value_name = "NETWORKS", default_value = "")]
    trusted_proxies: String,

    /// How long Redis may be away before a service that was ready says that it is not. Until then, each request is
    /// answered with 503
    #[arg(long, env = "MAYFLY_UNREADY_AFTER", value_name = "DURATION", default_value = "15s")]
    unready_after: String,

    /// How long to go on as ever, but unready, once a shutdown begins: the time in which load balancers notice. 0s for
    /// none
    #[arg(long, env = "MAYFLY_SHUTDOWN_DELAY", value_name = "DURATION", default_value = "0s")]
    shutdown_delay: String,

    /// How long a shutdown waits for requests in flight, after the delay
    #[arg(long, env = "MAYFLY_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "25s")]
    shutdown_grace: String,

    /// The address and port to serve Prometheus' /metrics on, or off
    #[arg(long, env = "MAYFLY_METRICS_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:25442")]
    metrics_listen: String,

    /// What to log: error, warn, info, debug or trace, or tracing's directives. Audit events are logged in any case but
    /// audit=off
    #[arg(long, env = "MAYFLY_LOG", value_name = "FILTER", default_value = "info")]
    log: String,

    /// How a line of the log looks: text, json, or auto (text on a terminal, json elsewhere)
    #[arg(long, env = "MAYFLY_LOG_FORMAT", value_name = "FORMAT", default_value = "auto")]
    log_format: String,
}

/// The settings of passwords.
#[derive(Clone, Args)]
pub struct PasswordSettings {
    /// What a password's argon2id hash costs: KiB of memory, passes and lanes. A hash that costs less, memory times passes,
    /// is replaced at the next login; one that costs more stays. A name that nobody has costs what is set here: the time of
    /// a failed login tells that there is a user whose hash costs something else, until that user has logged in after it
    /// was raised, or has another password after it was lowered
    #[arg(long, env = "MAYFLY_PASSWORD_COST", value_name = "COST", default_value_t = HashCost::default().to_string())]
    password_cost: String,
}

/// The settings that say where users and tokens are kept.
#[derive(Clone, Args)]
#[expect(clippy::struct_field_names, reason = "a flag has the name of its field")]
pub struct StoreSettings {
    /// The Redis (7.0 or later) that keeps users and tokens. Without it they are kept in memory and gone when the service
    /// stops. All but the hosts and Sentinel's service may be left out of
    /// redis://user:password@host:port/db (rediss:// with TLS),
    /// unix:///path/of/socket?db=0&user=name&pass=password,
    /// redis+sentinel://user:password@host:port,host:port/service/db and
    /// redis+cluster://user:password@host:port,host:port. One with a password belongs into the variable
    #[arg(long, env = "MAYFLY_REDIS_URL", value_name = "URL", hide_env_values = true)]
    redis_url: Option<String>,

    /// A file with the password for Redis, instead of the URL
    #[arg(long, env = "MAYFLY_REDIS_PASSWORD_FILE", value_name = "FILE")]
    redis_password_file: Option<PathBuf>,

    /// Whom to trust with rediss://, as PEM, instead of those whom the system trusts
    #[arg(long, env = "MAYFLY_REDIS_CA_FILE", value_name = "FILE")]
    redis_ca_file: Option<PathBuf>,

    /// The certificate to show with rediss://, as PEM, where Redis asks for one
    #[arg(long, env = "MAYFLY_REDIS_CERT_FILE", value_name = "FILE")]
    redis_cert_file: Option<PathBuf>,

    /// The key of that certificate, as PEM
    #[arg(long, env = "MAYFLY_REDIS_KEY_FILE", value_name = "FILE")]
    redis_key_file: Option<PathBuf>,

    /// How long an operation of Redis may take, connecting included
    #[arg(long, env = "MAYFLY_REDIS_TIMEOUT", value_name = "DURATION", default_value = "1s")]
    redis_timeout: String,

    /// How many replicas of Redis must have a change before it is answered; fewer are a 503, after which the request can
    /// be repeated safely. With all that can be promoted, no failover brings a revoked token back; with fewer, Sentinel may
    /// promote one that has not heard of it
    #[arg(long, env = "MAYFLY_REDIS_WAIT_REPLICAS", value_name = "NUMBER", default_value = "0")]
    redis_wait_replicas: String,

    /// How long these replicas have for it; less than MAYFLY_REDIS_TIMEOUT
    #[arg(long, env = "MAYFLY_REDIS_WAIT_TIMEOUT", value_name = "DURATION", default_value = "500ms")]
    redis_wait_timeout: String,
}

/// The settings, read and checked.
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What to show to clients, who speak TLS then.
    pub certificate: Option<Arc<Certificate>>,
    /// Connections at once.
    pub max_connections: usize,
    /// Where users and tokens are kept.
    pub store: StoreConfig,
    /// The keys that sign tokens.
    pub keys: SigningKeys,
    /// For how long what was read from the store may be used again.
    pub lease: Duration,
    /// What the operator allows.
    pub rules: TokenRules,
    /// The first administrator.
    pub admin: AdminConfig,
    /// What a hash of a password costs.
    pub hash_cost: HashCost,
    /// What browsers are shown.
    pub browser: BrowserAccess,
    /// Whose word is taken for where a request comes from.
    pub trusted_proxies: TrustedProxies,
    /// How long the store may be away before a service that was ready is unready.
    pub unready_after: Duration,
    /// How long to go on, but unready, once a shutdown begins.
    pub shutdown_delay: Duration,
    /// How long a shutdown then waits for requests in flight.
    pub shutdown_grace: Duration,
    /// Where to serve metrics, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// What to tell operators, and how.
    pub telemetry: telemetry::Settings,
}

/// Where users and tokens are kept.
pub enum StoreConfig {
    /// In the memory of this process.
    Memory,
    /// In Redis.
    Redis(RedisOptions),
}

/// The first administrator.
pub struct AdminConfig {
    /// The name.
    pub name: UserName,
    /// The password.
    pub password: AdminPassword,
}

/// Where the password of the first administrator comes from.
#[derive(Clone)]
pub enum AdminPassword {
    /// The variable.
    Variable(Password),
    /// The file.
    File(Password, PathBuf),
    /// Nobody gave one, and the store is embedded: it was made for this run.
    Generated(Password),
    /// Nobody gave one, and the store is Redis: nobody is added.
    Missing,
}

/// The variables of the environment that begin with `MAYFLY_` or `OTEL_`, but for empty ones, which count as unset.
pub type Environment = BTreeMap<String, OsString>;

/// Those of this process.
pub fn environment() -> Environment {
    let ours = |name: &str| name.starts_with("MAYFLY_") || name.starts_with("OTEL_");
    let named = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    named.filter(|(name, value)| ours(name) && !value.is_empty()).collect()
}

/// A command line that does not see the variables which it would refuse in its own words: those that are empty count as
/// unset, and those that should be text and are none are reported with all other mistakes.
pub fn without_unusable_variables(command: Command) -> Command {
    let is_unusable =
        |setting: &Arg| setting.get_env().and_then(env::var_os).is_some_and(|v| v.is_empty() || !fits(setting, &v));
    let command =
        command.mut_args(|setting| if is_unusable(&setting) { setting.env(Resettable::Reset) } else { setting });
    command.mut_subcommands(without_unusable_variables)
}

/// Whether this value is text where the setting wants text: only names of files may be none.
fn fits(setting: &Arg, value: &OsStr) -> bool {
    setting.get_value_parser().type_id() == TypeId::of::<PathBuf>() || value.to_str().is_some()
}

/// The secret in a text that holds nothing else: without the byte order mark and the line ends that editors write.
pub fn secret_line(text: &str) -> Result<&str, &'static str> {
    let line = text.strip_prefix('\u{feff}').unwrap_or(text).trim_end_matches(['\r', '\n']);
    if line.contains(char::is_control) {
        Err("it holds a control character, such as the end of a line")
    } else {
        Ok(line)
    }
}

/// What to send to a collector, by the variables of OpenTelemetry.
fn load_otlp(environment: &Environment) -> Otlp {
    let text = environment.iter().filter(|(name, _)| name.starts_with("OTEL_"));
    Otlp::load(&text.map(|(name, value)| (name.clone(), value.to_string_lossy().into_owned())).collect())
}

/// All mistakes in the settings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.0.len() == 1 { "a mistake" } else { "mistakes" };
        writeln!(f, "there {} {what} in the settings:", if self.0.len() == 1 { "is" } else { "are" })?;
        self.0.iter().try_for_each(|mistake| writeln!(f, "  {mistake}"))?;
        write!(f, "`mayfly --help` describes them all")
    }
}

impl Mistakes {
    /// Notes a mistake in the setting of this variable.
    fn note(&mut self, variable: &str, mistake: impl fmt::Display) {
        let name = match variable.strip_prefix("MAYFLY_") {
            Some(flag) if variable != ADMIN_PASSWORD => {
                format!("{variable} (--{})", flag.to_lowercase().replace('_', "-"))
            }
            _ => variable.to_owned(),
        };
        self.0.push(format!("{name}: {mistake}"));
    }

    /// Notes the variables of these settings that are to be text, and are none.
    fn note_unreadable<S: Args>(&mut self, environment: &Environment) {
        for setting in S::augment_args(Command::new("")).get_arguments() {
            let Some(variable) = setting.get_env().and_then(OsStr::to_str) else { continue };
            if environment.get(variable).is_some_and(|value| !fits(setting, value)) {
                self.note(variable, "it is no UTF-8");
            }
        }
    }

    fn check<T, E: fmt::Display>(&mut self, variable: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|mistake| self.note(variable, mistake)).ok()
    }
}

impl Config {
    /// Reads the settings, the files that they name, and the secrets in the environment.
    pub fn load(settings: &Settings, environment: &Environment) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        for name in unknown_variables(environment) {
            mistakes.0.push(format!("{name}: there is no such setting"));
        }
        mistakes.note_unreadable::<Settings>(environment);
        let listen = mistakes.check("MAYFLY_LISTEN", parse_address(&settings.listen));
        let certificate = load_certificate(settings.tls_cert.as_ref(), settings.tls_key.as_ref());
        let certificate = mistakes.check("MAYFLY_TLS_CERT", certificate);
        let max_connections = mistakes.check("MAYFLY_MAX_CONNECTIONS", check_connections(&settings.max_connections));
        let store = settings.store.load_into(&mut mistakes);
        let needs_keys = settings.store.redis_url.is_some();
        let keys = mistakes.check("MAYFLY_JWT_KEYS_FILE", load_keys(settings.jwt_keys_file.as_ref(), needs_keys));
        let lease = mistakes.check("MAYFLY_LEASE", check_lease(&settings.lease));
        let issuer = mistakes.check("MAYFLY_JWT_ISSUER", check_issuer(settings.jwt_issuer.as_deref()));
        let max_life = mistakes.check("MAYFLY_TOKEN_MAX_LIFE", check_max_life(&settings.token_max_life));
        let quota = mistakes.check("MAYFLY_TOKEN_QUOTA", check_quota(&settings.token_quota));
        let name = mistakes.check("MAYFLY_ADMIN_NAME", UserName::from_str(&settings.admin_name));
        let password = load_admin_password(settings, environment, &mut mistakes);
        let hash_cost = settings.passwords.load_into(&mut mistakes);
        let docs = mistakes.check("MAYFLY_DOCS", check_switch(&settings.docs));
        let cors_origins = mistakes.check("MAYFLY_CORS_ORIGINS", check_origins(&settings.cors_origins));
        let trusted_proxies = mistakes.check("MAYFLY_TRUSTED_PROXIES", settings.trusted_proxies.parse());
        let unready_after = mistakes.check("MAYFLY_UNREADY_AFTER", parse_duration(&settings.unready_after));
        let shutdown_delay = mistakes.check("MAYFLY_SHUTDOWN_DELAY", parse_delay(&settings.shutdown_delay));
        let shutdown_grace = mistakes.check("MAYFLY_SHUTDOWN_GRACE", parse_duration(&settings.shutdown_grace));
        let metrics_listen = mistakes.check("MAYFLY_METRICS_LISTEN", check_metrics_listen(&settings.metrics_listen));
        let log = mistakes.check("MAYFLY_LOG", check_log(&settings.log));
        let log_format = mistakes.check("MAYFLY_LOG_FORMAT", settings.log_format.parse());

        let config = (|| {
            Some(Self {
                listen: listen?,
                certificate: certificate?,
                max_connections: max_connections?,
                store: store?,
                keys: keys?,
                lease: lease?,
                rules: TokenRules { max_life: max_life?, quota: quota?, issuer: issuer? },
                admin: AdminConfig { name: name?, password: password? },
                hash_cost: hash_cost?,
                browser: BrowserAccess { docs: docs?, cors_origins: cors_origins? },
                trusted_proxies: trusted_proxies?,
                unready_after: unready_after?,
                shutdown_delay: shutdown_delay?,
                shutdown_grace: shutdown_grace?,
                metrics_listen: metrics_listen?,
                telemetry: telemetry::Settings { log: log?, log_format: log_format?, otlp: load_otlp(environment) },
            })
        })();
        config.filter(|_| mistakes.0.is_empty()).ok_or(mistakes)
    }
}

impl PasswordSettings {
    /// Reads these settings alone.
    pub fn load(&self, environment: &Environment) -> Result<HashCost, Mistakes> {
        let mut mistakes = Mistakes::default();
        mistakes.note_unreadable::<Self>(environment);
        self.load_into(&mut mistakes).filter(|_| mistakes.0.is_empty()).ok_or(mistakes)
    }

    fn load_into(&self, mistakes: &mut Mistakes) -> Option<HashCost> {
        mistakes.check("MAYFLY_PASSWORD_COST", HashCost::from_str(&self.password_cost))
    }
}

impl StoreSettings {
    /// Reads the settings of the store alone.
    pub fn load(&self, environment: &Environment) -> Result<StoreConfig, Mistakes> {
        let mut mistakes = Mistakes::default();
        mistakes.note_unreadable::<Self>(environment);
        self.load_into(&mut mistakes).filter(|_| mistakes.0.is_empty()).ok_or(mistakes)
    }

    fn load_into(&self, mistakes: &mut Mistakes) -> Option<StoreConfig> {
        let timeout = mistakes.check("MAYFLY_REDIS_TIMEOUT", parse_duration(&self.redis_timeout));
        let wait_replicas = mistakes.check("MAYFLY_REDIS_WAIT_REPLICAS", check_replicas(&self.redis_wait_replicas));
        let wait_timeout = parse_duration(&self.redis_wait_timeout).and_then(|wait| match timeout {
            Some(timeout) if wait >= timeout => Err("not less than MAYFLY_REDIS_TIMEOUT".into()),
            _ => Ok(wait),
        });
        let wait_timeout = mistakes.check("MAYFLY_REDIS_WAIT_TIMEOUT", wait_timeout);
        let password = self.redis_password_file.as_deref().map(read_secret);
        let password = mistakes.check("MAYFLY_REDIS_PASSWORD_FILE", password.transpose());
        let authorities = self.redis_ca_file.as_deref().map(read_file);
        let authorities = mistakes.check("MAYFLY_REDIS_CA_FILE", authorities.transpose());
        let client = match (&self.redis_cert_file, &self.redis_key_file) {
            (Some(certificate), Some(key)) => {
                let certificate = mistakes.check("MAYFLY_REDIS_CERT_FILE", read_file(certificate));
                let key = mistakes.check("MAYFLY_REDIS_KEY_FILE", read_file(key));
                certificate.zip(key).map(|(certificate, key)| Some((certificate, key.into())))
            }
            (None, None) => Some(None),
            _ => {
                mistakes
                    .note("MAYFLY_REDIS_CERT_FILE", "goes with MAYFLY_REDIS_KEY_FILE, and neither without the other");
                None
            }
        };
        let Some(url) = &self.redis_url else { return Some(StoreConfig::Memory) };
        // Where there are mistakes already, nothing comes of it but those in the URL.
        let options = RedisOptions {
            url: url.as_str().into(),
            password: password.flatten(),
            tls: TlsFiles { authorities: authorities.flatten(), client: client.flatten() },
            timeout: timeout.unwrap_or_default(),
            wait_replicas: wait_replicas.unwrap_or_default(),
            wait_timeout: wait_timeout.unwrap_or_default(),
        };
        let setting_of = |error: AddressError| match error {
            AddressError::Url => "MAYFLY_REDIS_URL",
            AddressError::TwoPasswords => "MAYFLY_REDIS_PASSWORD_FILE",
            AddressError::Plain | AddressError::SystemTrust | AddressError::Certificates => "MAYFLY_REDIS_CA_FILE",
        };
        match RedisStore::new(&options) {
            Ok(_) => Some(StoreConfig::Redis(options)),
            Err(error) => {
                mistakes.note(setting_of(error), error);
                None
            }
        }
    }
}

impl StoreConfig {
    /// The store itself. Nothing is connected yet.
    ///
    /// # Panics
    /// Not where the settings were checked.
    pub fn open(&self) -> Arc<dyn StrictWrites> {
        match self {
            Self::Memory => Arc::new(MemoryStore::default()),
            Self::Redis(options) => Arc::new(RedisStore::new(options).expect("the options were checked")),
        }
    }
}

fn load_certificate(chain: Option<&PathBuf>, key: Option<&PathBuf>) -> Result<Option<Arc<Certificate>>, String> {
    match (chain, key) {
        (Some(chain), Some(key)) => {
            Certificate::open(chain, key).map(|pair| Some(Arc::new(pair))).map_err(|error| error.to_string())
        }
        (None, None) => Ok(None),
        _ => Err("goes with MAYFLY_TLS_KEY, and neither without the other".into()),
    }
}

fn load_keys(file: Option<&PathBuf>, needed: bool) -> Result<SigningKeys, String> {
    match file {
        Some(file) => SigningKeys::open(file).map_err(|error| error.to_string()),
        None if needed => {
            Err("missing, and required with Redis: `mayfly key generate --out keys.json` makes one".into())
        }
        None => {
            let set = jwk::generate(Algorithm::Hs256, Clock::system().unix_seconds());
            Ok(SigningKeys::fixed(KeySet::parse(set.expose_secret()).expect("a generated set is good")))
        }
    }
}

fn load_admin_password(
    settings: &Settings,
    environment: &Environment,
    mistakes: &mut Mistakes,
) -> Option<AdminPassword> {
    match (environment.get(ADMIN_PASSWORD), &settings.admin_password_file) {
        (None, None) if settings.store.redis_url.is_some() => Some(AdminPassword::Missing),
        (None, None) => Some(AdminPassword::Generated(Password::generate())),
        (Some(password), None) => {
            let line = password.to_str().ok_or("it is no UTF-8").and_then(secret_line).map_err(str::to_owned);
            let password = line.and_then(|line| line.parse().map_err(|error: PasswordError| error.to_string()));
            mistakes.check(ADMIN_PASSWORD, password).map(AdminPassword::Variable)
        }
        (None, Some(file)) => {
            let password = mistakes.check("MAYFLY_ADMIN_PASSWORD_FILE", read_password(file))?;
            Some(AdminPassword::File(password, file.clone()))
        }
        (Some(_), Some(_)) => {
            mistakes.note(ADMIN_PASSWORD, "give this or MAYFLY_ADMIN_PASSWORD_FILE, not both");
            None
        }
    }
}

fn read_password(file: &Path) -> Result<Password, String> {
    let password = read_secret(file)?;
    password.expose_secret().parse().map_err(|error| format!("{}: {error}", file.display()))
}

/// The one line of a file.
fn read_secret(file: &Path) -> Result<SecretString, String> {
    let text = SecretString::from(fs::read_to_string(file).map_err(|error| cannot_read(file, &error))?);
    let line = secret_line(text.expose_secret()).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(line.into())
}

fn read_file(file: impl AsRef<Path>) -> Result<Vec<u8>, String> {
    fs::read(file.as_ref()).map_err(|error| cannot_read(file.as_ref(), &error))
}

/// Variables that no setting has: misspelt ones, without which the service would quietly run on a default.
fn unknown_variables(environment: &Environment) -> impl Iterator<Item = &str> {
    let settings = Settings::augment_args(Command::new(""));
    let known = move |name: &str| {
        name == ADMIN_PASSWORD
            || settings.get_arguments().any(|setting| setting.get_env().is_some_and(|env| env == name))
    };
    // Kubernetes gives each container such variables for each service, and one of them may be called mayfly.
    let of_kubernetes = |name: &str, value: &OsString| {
        let url =
            value.to_str().is_some_and(|value| ["tcp://", "udp://"].iter().any(|scheme| value.starts_with(scheme)));
        name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.contains("_PORT_") || url
    };
    let ours = environment.iter().filter(|(name, _)| name.starts_with("MAYFLY_"));
    ours.filter(move |(name, value)| !known(name) && !of_kubernetes(name, value)).map(|(name, _)| name.as_str())
}

fn cannot_read(file: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", file.display())
}

/// Longer names would make longer tokens than are accepted.
fn check_issuer(issuer: Option<&str>) -> Result<Option<String>, &'static str> {
    match issuer {
        Some(text) if text.is_empty() || text.len() > 256 || text.contains(char::is_control) => {
            Err("an issuer is 1 to 256 bytes without control characters")
        }
        issuer => Ok(issuer.map(str::to_owned)),
    }
}

/// A century is more than any token needs and less than any clock here overflows at.
fn check_max_life(text: &str) -> Result<Life, String> {
    let century = Life::parse("36525 days").expect("a constant life");
    Life::parse_up_to(text, century).map_err(|error| error.to_string())
}

fn check_lease(text: &str) -> Result<Duration, String> {
    let lease = if text == "0" { Ok(Duration::ZERO) } else { duration::parse(text) };
    let lease = lease.map_err(|error| error.to_string())?;
    if lease <= LEASE { Ok(lease) } else { Err(format!("{text:?} is not from 0 to {LEASE:?}")) }
}

fn check_quota(text: &str) -> Result<usize, String> {
    let quota = text.parse().ok().filter(|quota| (1..=100_000).contains(quota));
    quota.ok_or_else(|| format!("{text:?} is no number from 1 to 100000"))
}

/// More than there are ports to reach a server from one address, many times over.
fn check_connections(text: &str) -> Result<usize, String> {
    let connections = text.parse().ok().filter(|connections| (1..=1_000_000).contains(connections));
    connections.ok_or_else(|| format!("{text:?} is no number from 1 to 1000000"))
}

/// More replicas than anybody has would never acknowledge.
fn check_replicas(text: &str) -> Result<u32, String> {
    let replicas = text.parse().ok().filter(|replicas| *replicas <= 16);
    replicas.ok_or_else(|| format!("{text:?} is no number from 0 to 16"))
}

/// A duration that may be none.
fn parse_delay(text: &str) -> Result<Duration, String> {
    let delay = duration::parse(text).map_err(|error| error.to_string())?;
    if delay <= Duration::from_hours(1) { Ok(delay) } else { Err(format!("{text:?} is not from 0s to 1h")) }
}

/// An hour is more than anything here is worth waiting for.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = duration::parse(text).map_err(|error| error.to_string())?;
    let bounds = Duration::from_millis(1)..=Duration::from_hours(1);
    if bounds.contains(&duration) { Ok(duration) } else { Err(format!("{text:?} is not from 1ms to 1h")) }
}

/// The address in MAYFLY_LISTEN, for one of these settings, which asks for nothing else.
pub fn load_listen<S: Args>(listen: &str, environment: &Environment) -> Result<SocketAddr, Mistakes> {
    let mut mistakes = Mistakes::default();
    mistakes.note_unreadable::<S>(environment);
    let listen = mistakes.check("MAYFLY_LISTEN", parse_address(listen));
    listen.filter(|_| mistakes.0.is_empty()).ok_or(mistakes)
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address and port such as 127.0.0.1:25441"))
}

fn check_metrics_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" { Ok(None) } else { parse_address(text).map(Some) }
}

fn check_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{text:?} is neither on nor off")),
    }
}

/// An origin is a scheme, a host and perhaps a port (RFC 6454, section 6.2), as a browser writes it.
fn check_origins(text: &str) -> Result<Vec<HeaderValue>, String> {
    let check = |origin: &str| {
        let host = ["https://", "http://"].iter().find_map(|scheme| origin.strip_prefix(scheme));
        let is_host =
            |host: &str| !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic() && !"/*?#@".contains(c));
        match HeaderValue::from_str(origin) {
            Ok(value) if host.is_some_and(is_host) => Ok(value),
            _ => Err(format!("{origin:?} is no origin such as https://console.example")),
        }
    };
    text.split(',').map(str::trim).filter(|origin| !origin.is_empty()).map(check).collect()
}

fn check_log(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{text:?} is no filter such as info or mayfly=debug: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn load(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Config, Mistakes> {
        let arguments = [&["mayfly"], arguments].concat();
        let matches = Settings::augment_args(Command::new("mayfly")).get_matches_from(arguments);
        let settings = Settings::from_arg_matches(&matches).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
        Config::load(&settings, &environment)
    }

    #[test]
    fn nothing_set_is_a_good_configuration() {
        let config = load(&[], &[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:25441");
        assert!(matches!(config.store, StoreConfig::Memory));
        assert!(matches!(config.admin.password, AdminPassword::Generated(_)));
        assert_eq!((config.rules.quota, config.rules.max_life.seconds()), (1000, 31_557_600));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let mistakes = load(
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
                "--docs=maybe",
                "--password-cost=m=1",
                "--cors-origins=https://console.example, console.example/",
                "--trusted-proxies=10.0.0.0/8, load-balancer",
                "--admin-name=a:b",
                "--admin-password-file=/nowhere",
                "--jwt-issuer=",
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
            "MAYFLY_DOCS",
            "MAYFLY_PASSWORD_COST",
            "MAYFLY_CORS_ORIGINS (--cors-origins): \"console.example/\"",
            "MAYFLY_TRUSTED_PROXIES (--trusted-proxies): \"load-balancer\"",
            "MAYFLY_ADMIN_NAME",
            "MAYFLY_ADMIN_PASSWORD_FILE",
            "MAYFLY_JWT_ISSUER",
            "MAYFLY_LOG (",
            "MAYFLY_SHUTDOWN_GRACE",
            "MAYFLY_METRICS_LISTEN (--metrics-listen)",
            "MAYFLY_LOG_FORMAT",
            "MAYFLY_TOKEN_QOUTA: there is no such setting",
            "MAYFLY_LISTEN_PORT: there is no such setting",
        ] {
            assert!(mistakes.contains(variable), "{variable} in:\n{mistakes}");
        }
        assert_eq!(mistakes.lines().count(), 31, "{mistakes}");
        assert!(!mistakes.contains("hunter2"), "{mistakes}");
    }

    #[test]
    fn every_kind_of_redis_has_a_url() {
        let load = |arguments: &[&str]| {
            let mistakes = load(arguments, &[]).err().unwrap().to_string();
            mistakes.lines().find(|line| line.contains("MAYFLY_REDIS")).map(str::to_owned)
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
            let mistake = load(&[&format!("--redis-url={url}")]).expect(url);
            assert!(mistake.contains("MAYFLY_REDIS_URL (--redis-url): not a URL such as"), "{url}: {mistake}");
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
            let mistake = load(&arguments).unwrap();
            assert!(mistake.contains(expected), "{mistake}");
            assert!(!mistake.contains("hunter2"), "{mistake}");
        }
    }

    #[test]
    fn redis_needs_a_key_file() {
        let mistakes = load(&["--redis-url=redis://127.0.0.1"], &[]).err().unwrap().to_string();
        assert!(mistakes.contains("`mayfly key generate --out keys.json` makes one"), "{mistakes}");
    }

    #[test]
    fn the_password_comes_from_one_place() {
        let both = load(&["--admin-password-file=/nowhere"], &[("MAYFLY_ADMIN_PASSWORD", "hunter2")]);
        assert!(both.err().unwrap().to_string().contains("not both"));
        let variable = load(&["--lease=0"], &[("MAYFLY_ADMIN_PASSWORD", "hunter2")]).unwrap();
        assert!(matches!(variable.admin.password, AdminPassword::Variable(_)));
    }
}
