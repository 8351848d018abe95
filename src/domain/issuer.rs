//! Issuers that are trusted to say who somebody is, and the rules by which their JWTs log in.

use std::{fmt, path::PathBuf, sync::Arc};

use serde_json::Value;

use super::{
    key_url::KeyUrl,
    life::Life,
    origin::IssuerId,
    token::Description,
    user::{Role, UserName},
    user_template::{ClaimPath, UserTemplate, kind_of},
};

/// By how much the clocks of an issuer and of this service may differ, in seconds.
pub const CLOCK_SKEW_SECONDS: u64 = 60;

/// The maximum length of a `sub` that is kept, in bytes.
const MAX_SUBJECT_BYTES: usize = 200;

/// A trusted issuer and the rules for its JWTs: one `[[issuer]]` of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// The `iss` of its JWTs, compared byte by byte.
    pub name: IssuerId,
    /// The text that `aud` must be or contain: the name of this service at the issuer.
    pub audience: String,
    /// Where its public keys are.
    pub keys: KeySource,
    /// The name of the user.
    pub user: UserTemplate,
    /// The role of a user who is created.
    pub role: Role,
    /// The maximum life of the tokens that its logins issue; `None`: that of the service.
    pub max_life: Option<Life>,
    /// The scopes that these tokens may have; `None`: any.
    pub scopes: Option<Vec<String>>,
    /// The claims that must have one of these values.
    pub require: Vec<Requirement>,
}

/// Where the public keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeySource {
    /// The place of the JWK Set.
    pub location: KeyLocation,
    /// The certificates (PEM) that the issuer's server is verified with; `None`: those of this machine.
    pub ca_file: Option<PathBuf>,
}

/// The place of a JWK Set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyLocation {
    /// The `jwks_uri` of the OpenID configuration of the issuer with this URL and this `iss`.
    Discovery(KeyUrl, IssuerId),
    /// This URL.
    Url(KeyUrl),
    /// This file.
    File(PathBuf),
}

impl fmt::Display for KeyLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discovery(url, _) => url.openid_configuration().fmt(f),
            Self::Url(url) => url.fmt(f),
            Self::File(file) => file.display().fmt(f),
        }
    }
}

/// A claim that must have one of these values: texts, whole numbers, `true` or `false`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The claim.
    pub claim: ClaimPath,
    /// The values, of which there is at least one.
    pub allowed: Vec<Value>,
}

/// A rule, applied to the claims of a JWT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The rule, as it is written in the file: `aud`, `exp`, `nbf`, `iat`, `require.ref` or `user`.
    pub rule: String,
    /// What was found, or what is wrong with it.
    pub result: Result<String, String>,
}

/// The login of a JWT that meets all rules of its issuer.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The name of the user.
    pub user: UserName,
    /// The issuer and its rules.
    pub issuer: Arc<Issuer>,
    /// The `sub` of the JWT, if it is a text of at most 200 bytes.
    pub subject: Option<String>,
    /// When the JWT expires, in seconds since 1970: its `exp`.
    pub expires_at: u64,
}

impl Admission {
    /// The description of a token that is exchanged for the JWT: the issuer and the subject.
    ///
    /// # Panics
    /// Never: an issuer alone is a description.
    pub fn description(&self) -> Description {
        let issuer: String = self.issuer.name.as_str().chars().take(Description::MAX_CHARS).collect();
        let with_subject = self.subject.as_ref().and_then(|subject| format!("{issuer}: {subject}").parse().ok());
        with_subject.unwrap_or_else(|| issuer.parse().expect("it is visible ASCII"))
    }

    /// Whether the JWT has expired at `now`, in seconds since 1970.
    pub fn is_expired(&self, now: u64) -> bool {
        has_expired(self.expires_at, now)
    }
}

fn has_expired(expires_at: u64, now: u64) -> bool {
    now >= expires_at.saturating_add(CLOCK_SKEW_SECONDS)
}

/// A time in seconds since 1970 (NumericDate in RFC 7519, section 2), rounded down; a time before 1970 is 0.
fn numeric_date(value: &Value) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    let rounded = || value.as_f64().map(|seconds| seconds as u64);
    value.as_u64().or_else(rounded)
}

impl Issuer {
    /// Applies all rules to these claims, whose signature was checked. `now`: in seconds since 1970. An error has the
    /// failed checks.
    pub fn admit(self: &Arc<Self>, claims: &Value, now: u64) -> Result<Admission, Vec<Check>> {
        let failed: Vec<_> = self.checks(claims, now).into_iter().filter(|check| check.result.is_err()).collect();
        let expires_at = claims.get("exp").and_then(numeric_date);
        match (self.user.name(claims), expires_at) {
            (Ok(user), Some(expires_at)) if failed.is_empty() => {
                let subject =
                    claims.get("sub").and_then(Value::as_str).filter(|subject| subject.len() <= MAX_SUBJECT_BYTES);
                let subject = subject.map(str::to_owned);
                Ok(Admission { user, issuer: Arc::clone(self), subject, expires_at })
            }
            _ => Err(failed),
        }
    }

    /// The result of each rule for these claims.
    pub fn checks(&self, claims: &Value, now: u64) -> Vec<Check> {
        let check = |rule: &str, result| Check { rule: rule.to_owned(), result };
        let mut checks = vec![
            check("iss", self.check_issuer(claims)),
            check("aud", self.check_audience(claims)),
            check("exp", check_expiry(claims, now)),
            check("nbf", check_not_in_future(claims, "nbf", now)),
            check("iat", check_not_in_future(claims, "iat", now)),
        ];
        checks.extend(self.require.iter().map(|required| {
            let rule = format!("require.{}", required.claim);
            Check { rule, result: required.check(claims) }
        }));
        let name = self.user.name(claims).map(|name| name.to_string()).map_err(|error| error.to_string());
        checks.push(check("user", name));
        checks
    }

    fn check_issuer(&self, claims: &Value) -> Result<String, String> {
        match claims.get("iss") {
            Some(Value::String(name)) if name == self.name.as_str() => Ok(name.clone()),
            other => Err(format!("it is {}, and must be {:?}", described(other), self.name.as_str())),
        }
    }

    /// `aud` is a text, or an array of texts (RFC 7519, section 4.1.3).
    fn check_audience(&self, claims: &Value) -> Result<String, String> {
        let is_met = match claims.get("aud") {
            Some(Value::String(audience)) => *audience == self.audience,
            Some(Value::Array(audiences)) => audiences.iter().any(|one| one.as_str() == Some(&*self.audience)),
            _ => false,
        };
        if is_met {
            Ok(self.audience.clone())
        } else {
            Err(format!("it is {}, and {:?} must be in it", described(claims.get("aud")), self.audience))
        }
    }
}

impl Requirement {
    fn check(&self, claims: &Value) -> Result<String, String> {
        let found = self.claim.find(claims);
        if let Some(value) = found.filter(|value| self.allowed.contains(value)) {
            return Ok(value.to_string());
        }
        let allowed = self.allowed.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
        Err(format!("it is {}, and must be {allowed}", described(found)))
    }
}

fn check_expiry(claims: &Value, now: u64) -> Result<String, String> {
    let exp = claims.get("exp");
    match exp.and_then(numeric_date) {
        None => Err(format!("it is {}, and must be a time in seconds since 1970", described(exp))),
        Some(expires_at) if has_expired(expires_at, now) => Err(format!("it has expired, {} s ago", now - expires_at)),
        Some(expires_at) => Ok(format!("expires in {} s", expires_at.saturating_sub(now))),
    }
}

/// Checks a time that may be missing and must not be in the future.
fn check_not_in_future(claims: &Value, name: &str, now: u64) -> Result<String, String> {
    let Some(value) = claims.get(name) else { return Ok("not there, and not needed".into()) };
    match numeric_date(value) {
        None => Err(format!("it is {}, and must be a time in seconds since 1970", described(Some(value)))),
        Some(time) if time > now.saturating_add(CLOCK_SKEW_SECONDS) => Err(format!("it is {} s ahead", time - now)),
        Some(time) => Ok(format!("{} s ago", now.saturating_sub(time))),
    }
}

/// A claim for a message: its value, if it is short.
fn described(value: Option<&Value>) -> String {
    const MAX_BYTES: usize = 200;
    let Some(value) = value else { return "not there".into() };
    let text = value.to_string();
    if text.len() <= MAX_BYTES { text } else { format!("{} of {} bytes", kind_of(value), text.len()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::issuers_file;

    const NOW: u64 = 1_700_000_000;

    fn issuer() -> Arc<Issuer> {
        let text = r#"
            [[issuer]]
            issuer = "https://ci.example"
            audience = "https://mayfly.example"
            user = "ci-{owner}"
            require = { repository = "acme/shop", ref = ["refs/heads/main", "refs/heads/release"], protected = true }
        "#;
        Arc::new(issuers_file::parse(text, None).unwrap().remove(0))
    }

    fn claims(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Value {
        let mut claims = json!({
            "iss": "https://ci.example", "aud": "https://mayfly.example", "exp": NOW + 300, "iat": NOW, "nbf": NOW,
            "owner": "acme", "repository": "acme/shop", "ref": "refs/heads/main", "protected": true, "sub": "repo:acme"
        });
        change(claims.as_object_mut().unwrap());
        claims
    }

    /// The rules that fail.
    fn failed(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Vec<String> {
        let result = issuer().admit(&claims(change), NOW);
        result.err().unwrap_or_default().into_iter().map(|check| check.rule).collect()
    }

    #[test]
    fn claims_that_meet_all_rules_log_in() {
        let admission = issuer().admit(&claims(|_| {}), NOW).unwrap();
        assert_eq!((admission.user.as_str(), admission.expires_at), ("ci-acme", NOW + 300));
        assert_eq!(admission.subject.as_deref(), Some("repo:acme"));
    }

    #[test]
    fn each_rule_must_be_met() {
        for (claim, value, rule) in [
            ("iss", json!("https://ci.example/"), "iss"),
            ("iss", json!("https://ci.exampl\u{0435}"), "iss"),
            ("aud", json!("https://mayfly.example/"), "aud"),
            ("aud", json!(["https://other.example"]), "aud"),
            ("aud", json!([]), "aud"),
            ("aud", json!([["https://mayfly.example"]]), "aud"),
            ("aud", json!({"https://mayfly.example": true}), "aud"),
            ("exp", json!(NOW - 60), "exp"),
            ("exp", json!(-1), "exp"),
            ("exp", json!(-1e300), "exp"),
            ("exp", json!("1900000000"), "exp"),
            ("exp", json!(null), "exp"),
            ("exp", json!([NOW + 300]), "exp"),
            ("nbf", json!(NOW + 61), "nbf"),
            ("nbf", json!("0"), "nbf"),
            ("iat", json!(NOW + 61), "iat"),
            ("iat", json!({}), "iat"),
            ("repository", json!("acme/Shop"), "require.repository"),
            ("repository", json!("\u{0430}cme/shop"), "require.repository"),
            ("repository", json!(["acme/shop"]), "require.repository"),
            ("ref", json!("refs/heads/main2"), "require.ref"),
            ("ref", json!(["refs/heads/main"]), "require.ref"),
            ("ref", json!({"refs/heads/main": 1}), "require.ref"),
            ("protected", json!("true"), "require.protected"),
            ("protected", json!(1), "require.protected"),
            ("owner", json!(["acme"]), "user"),
            ("owner", json!("acme/shop"), "user"),
            ("owner", json!(""), "user"),
        ] {
            assert_eq!(failed(|claims| drop(claims.insert(claim.into(), value.clone()))), [rule], "{claim}: {value}");
        }
        for claim in ["iss", "aud", "exp", "repository", "ref", "protected", "owner"] {
            assert_eq!(failed(|claims| drop(claims.remove(claim))).len(), 1, "{claim}");
        }
        assert_eq!(failed(serde_json::Map::clear).len(), 7);
    }

    #[test]
    fn a_subject_that_is_too_long_is_not_kept() {
        let subject = |length: usize| {
            let admission =
                issuer().admit(&claims(|claims| drop(claims.insert("sub".into(), "x".repeat(length).into()))), NOW);
            admission.unwrap().subject.map(|subject| subject.len())
        };
        assert_eq!([200, 201].map(subject), [Some(200), None]);
    }

    #[test]
    fn times_have_a_minute_of_skew_and_may_be_fractions() {
        for (claim, value) in [
            ("exp", json!(NOW - 59)),
            ("exp", json!(NOW_FRACTION)),
            ("exp", json!(u64::MAX)),
            ("exp", json!(1e300)),
            ("nbf", json!(NOW + 60)),
            ("iat", json!(NOW + 60)),
            ("iat", json!(-5)),
            ("aud", json!(["a", "https://mayfly.example"])),
        ] {
            assert_eq!(failed(|claims| drop(claims.insert(claim.into(), value.clone()))), [""; 0], "{claim}: {value}");
        }
        assert_eq!(failed(|claims| drop((claims.remove("nbf"), claims.remove("iat")))), [""; 0]);
        let admission = issuer().admit(&claims(|_| {}), NOW).unwrap();
        assert!(!admission.is_expired(NOW + 359) && admission.is_expired(NOW + 360));
    }

    const NOW_FRACTION: f64 = 1_700_000_000.75;
}
