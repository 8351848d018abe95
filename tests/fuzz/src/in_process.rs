//! The service in this process, without a socket: its endpoint over the store in memory. Nothing is random and time is
//! virtual, so that an input always has the same result.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use mayfly::{
    domain::{
        attributes::{Attribute, Attributes, Audiences, Scopes, SharedAttributes},
        claims::Claims,
        keys::KeySet,
        life::Life,
        password::{HashCost, PasswordHash},
        throttle::MAX_RETENTION,
        token::{Token, TokenDigest, TokenPolicy},
        user::{LoginEpoch, Role, User, UserName},
    },
    http::{self, BrowserAccess, Services},
    service::{
        Clock, external_login::ExternalLogins, hashing::Hashing, issuers::TrustedIssuers, login::Login,
        readiness::Readiness, signing_keys::SigningKeys, tokens::Tokens, users::Users, verifiers::Verifiers,
    },
    store::{Authority, NewToken, leased::LeasedStore, memory::MemoryStore},
};
use poem::{
    Endpoint, EndpointExt, Request, Response,
    endpoint::BoxEndpoint,
    http::{HeaderMap, StatusCode, Version, header},
};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// A constant HS256 key, and the keys of RFC 8037, appendix A.1, and RFC 7515, appendix A.3.
const KEYS: &str = r#"{"keys": [
    {"kty": "oct", "alg": "HS256", "kid": "a", "k": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"},
    {"kty": "OKP", "alg": "EdDSA", "kid": "b", "crv": "Ed25519",
     "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"},
    {"kty": "EC", "alg": "ES256", "kid": "c", "crv": "P-256",
     "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
     "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"}
]}"#;

/// The administrator's credentials, before Basic encodes them.
pub const LOGIN: &str = "admin:correct horse battery staple";

/// The attributes of one token.
pub const SCOPES: [&str; 3] = ["a", "b", "c:d+e"];
pub const AUDIENCES: [&str; 2] = ["x", "https://y/?z"];

/// The time of day, in seconds since the epoch.
pub const NOW: u64 = 1_662_720_135;

/// A service with an administrator and two live tokens of another user.
pub struct InProcess {
    runtime: Runtime,
    endpoint: BoxEndpoint<'static, Response>,
    pub services: Arc<Services>,
    /// The JWT of the other user.
    pub jwt: String,
    /// Another one of this user, with [`SCOPES`] and [`AUDIENCES`].
    pub jwt_with_attributes: String,
}

/// An answer of the service.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Runs `check` on this thread's service.
pub fn with_service(check: impl FnOnce(&InProcess)) {
    thread_local! {
        // Never dropped: poem leaks the names of its paths, and LeakSanitizer would report those.
        static SERVICE: &'static InProcess = Box::leak(Box::new(InProcess::start()));
    }
    SERVICE.with(|service| check(service));
}

impl InProcess {
    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (services, [jwt, jwt_with_attributes]) = runtime.block_on(services());
        let access = BrowserAccess { docs: false, page: false, cors_origins: Vec::new() };
        let endpoint = http::endpoint(Arc::clone(&services), access, Arc::new("".parse().unwrap())).boxed();
        Self { runtime, endpoint, services, jwt, jwt_with_attributes }
    }

    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Advances the clock until all failed logins are forgotten.
    pub fn forget_failures(&self) {
        self.run(tokio::time::advance(MAX_RETENTION));
    }

    /// The `Authorization` header for `login`, a name and a password with a colon between them.
    pub fn authorization(login: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(login))
    }

    /// Sends a request, and checks the answer for the properties of all answers.
    pub fn answer(&self, mut request: Request) -> Answer {
        // HTTP/1.0 needs no Host.
        request.set_version(Version::HTTP_10);
        let (status, headers, body) = self.run(async {
            let response = self.endpoint.get_response(request).await;
            let (parts, body) = response.into_parts();
            (parts.status, parts.headers, body.into_vec().await.unwrap())
        });
        let answer = Answer { status, headers, body };
        answer.check(&self.jwt);
        answer
    }
}

async fn services() -> (Arc<Services>, [String; 2]) {
    let store = Arc::new(LeasedStore::new(Arc::new(MemoryStore::default()), Duration::ZERO));
    let keys = Arc::new(SigningKeys::fixed(KeySet::parse(KEYS).unwrap()));
    let cost: HashCost = "m=8,t=1,p=1".parse().unwrap();
    let (name, password) = LOGIN.split_once(':').unwrap();
    let of_admin = PasswordHash::of(&password.parse().unwrap(), cost);
    let login_epoch: LoginEpoch = "b56929f354f14dc299849bba615e26e6".parse().unwrap();
    for (name, role, hash) in [(name, Role::Admin, of_admin), ("alice", Role::User, PasswordHash::dummy(cost))] {
        let name = name.parse().unwrap();
        let user = User { name, credential: hash.into(), role, created_at: NOW, disabled: false, login_epoch };
        assert!(
            store
                .create_user(&Authority::Until(tokio::time::Instant::now() + Duration::from_mins(1)), &user)
                .await
                .unwrap()
        );
    }

    let owner: UserName = "alice".parse().unwrap();
    let attributes = Attributes {
        scopes: Scopes::parse(SCOPES.into_iter()).unwrap(),
        audiences: Audiences::parse(AUDIENCES.into_iter()).unwrap(),
        ..Attributes::default()
    };
    let mut jwts = Vec::new();
    for (id, attributes) in [
        ("b56929f3-54f1-4dc2-9984-9bba615e26e6", SharedAttributes::default()),
        ("0e9a3c5f-6a3b-4d43-8d3e-2f1d5a9a7c11", attributes.into()),
    ] {
        let id = id.parse().unwrap();
        let (description, life) = ("Token specter".parse().unwrap(), Life::parse("999 years").unwrap());
        let claims = Claims::new(&owner, id, &description, life, NOW, None).with_attributes(&attributes);
        let jwt = keys.current_keys().set.sign(&claims).expose_secret().to_owned();
        let token = Token { id, description, life, digest: TokenDigest::of(&jwt), attributes, successor: None };
        let new = NewToken { owner: &owner, login: login_epoch, token: &token, quota: 2, idempotency: None };
        store.create_token(new).await.unwrap();
        jwts.push(jwt);
    }

    let rules = TokenPolicy { max_life: Life::parse("365 days").unwrap(), quota: 10, issuer: None };
    let clock = Clock::new(|| Duration::from_secs(NOW));
    let hashing = Arc::new(Hashing::new(cost));
    let services = Services {
        tokens: Tokens::new(Arc::clone(&store), Arc::clone(&keys), clock.clone(), rules),
        users: Users::new(Arc::clone(&store), clock.clone(), Arc::clone(&hashing)),
        external_logins: ExternalLogins::new(Arc::clone(&store), clock),
        issuers: Arc::new(TrustedIssuers::none()),
        login: Login::new(Arc::clone(&store) as _, hashing),
        verifiers: Verifiers::new(Arc::clone(&store), Arc::clone(&keys)),
        readiness: Readiness::new(store, Duration::MAX),
        keys,
        issuer: None,
    };
    services.readiness.start(true);
    (Arc::new(services), jwts.try_into().unwrap())
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn check(&self, jwt: &str) {
        let Self { status, headers, body } = self;
        let text = str::from_utf8(body).expect("a body is text");
        let of = |name: header::HeaderName| headers.get(name).map_or("", |value| value.to_str().unwrap());
        assert!(!status.is_server_error(), "{text}");
        assert!(!of(header::HeaderName::from_static("x-request-id")).is_empty());
        let (_, password) = LOGIN.split_once(':').unwrap();
        assert!(!text.contains(password) && !text.contains(jwt), "{text}");
        if status.is_client_error() {
            let problem = self.json();
            let is_oauth = problem["error"].is_string() && problem["error_description"].is_string();
            let expected = if is_oauth { "application/json" } else { "application/problem+json" };
            assert_eq!(of(header::CONTENT_TYPE), expected);
            assert_eq!(problem["status"], status.as_u16());
            assert!(problem["detail"].is_string() && problem["detail"] == problem["message"], "{text}");
        }
        if *status == StatusCode::UNAUTHORIZED {
            assert!(of(header::WWW_AUTHENTICATE).contains("realm=\"mayfly\""));
        }
    }
}
