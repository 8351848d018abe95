//! `POST /oauth2/token`: a token in exchange for a JWT of a trusted issuer (RFC 8693).

use std::sync::Arc;

use poem::{Request, http::StatusCode, web::Data};
use poem_openapi::{Object, OpenApi};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::{
    auth::log_in_with_issuer_jwt,
    payload::{Form, Json},
    problem::Problem,
    services::Services,
    tags::Tag,
};
use crate::{
    domain::attributes::{Attribute, Attributes, Audiences, Scopes},
    service::tokens::IssueError,
};

/// The grant type (RFC 8693, section 2.1).
pub(super) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// The types of token (RFC 8693, section 3) that are exchanged.
const SUBJECT_TOKEN_TYPES: [&str; 2] = [TOKEN_TYPE, "urn:ietf:params:oauth:token-type:id_token"];

/// The type of the tokens that are issued.
const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:jwt";

/// The types that a client may ask for: a token of ours is both.
const REQUESTED_TOKEN_TYPES: [&str; 2] = [TOKEN_TYPE, "urn:ietf:params:oauth:token-type:access_token"];

/// The operation for clients that another issuer vouches for.
pub(super) struct TokenExchangeApi;

/// A JWT of a trusted issuer, to be exchanged for a token.
#[derive(Deserialize, Object)]
#[serde(try_from = "Vec<(String, String)>")]
struct TokenExchangeForm {
    /// `urn:ietf:params:oauth:grant-type:token-exchange`
    grant_type: String,
    /// The JWT.
    subject_token: String,
    /// `urn:ietf:params:oauth:token-type:jwt` or `urn:ietf:params:oauth:token-type:id_token`
    subject_token_type: String,
    /// `urn:ietf:params:oauth:token-type:jwt` (the default) or `urn:ietf:params:oauth:token-type:access_token`
    requested_token_type: Option<String>,
    /// How long the token lives: `6 hours`, `90m`. The default is the longest life that the issuer's rules allow.
    requested_life: Option<String>,
    /// The scopes of the token, with a space between two.
    scope: Option<String>,
    /// The services that the token is for. May be repeated.
    audience: Option<Vec<String>>,
    /// Not supported: the services are named by `audience`.
    resource: Option<String>,
    /// Not supported: nobody acts for somebody else.
    actor_token: Option<String>,
}

/// The fields of a form, in their order.
impl TryFrom<Vec<(String, String)>> for TokenExchangeForm {
    type Error = String;

    fn try_from(fields: Vec<(String, String)>) -> Result<Self, String> {
        let (mut audiences, mut others) = (Vec::new(), Vec::<(String, String)>::new());
        for (name, value) in fields {
            match &*name {
                "audience" => audiences.push(value),
                // Repeated parameters are rejected (RFC 6749, section 3.2), and empty ones count as missing.
                _ if others.iter().any(|(other, _)| *other == name) => return Err(format!("duplicate field `{name}`")),
                _ => others.push((name, value)),
            }
        }
        let take = |name: &str| {
            let field = others.iter().find(|(other, value)| other == name && !value.is_empty());
            field.map(|(_, value)| value.clone())
        };
        let required = |name: &str| take(name).ok_or_else(|| format!("missing field `{name}`"));
        Ok(Self {
            grant_type: required("grant_type")?,
            // Checked behind the grant type, whose error is another.
            subject_token: take("subject_token").unwrap_or_default(),
            subject_token_type: take("subject_token_type").unwrap_or_default(),
            requested_token_type: take("requested_token_type"),
            requested_life: take("requested_life"),
            scope: take("scope"),
            audience: (!audiences.is_empty()).then_some(audiences),
            resource: take("resource"),
            actor_token: take("actor_token"),
        })
    }
}

/// A token. It is in this answer only.
#[derive(Serialize, Object)]
#[oai(skip_serializing_if_is_none)]
struct TokenExchanged {
    /// The JWT.
    access_token: String,
    /// `urn:ietf:params:oauth:token-type:jwt`
    issued_token_type: String,
    /// `Bearer`
    token_type: String,
    /// Its life in seconds.
    expires_in: u64,
    /// Its scopes, if it has any, with a space between two.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

#[OpenApi(tag = "Tag::Tokens")]
impl TokenExchangeApi {
    /// Exchange a JWT of a trusted issuer for a token
    ///
    /// The JWT is one of an OpenID provider, a CI system or Kubernetes that the operator trusts (RFC 8693). The user is
    /// created with the first token. The token is in this answer only.
    #[oai(path = "/oauth2/token", method = "post", operation_id = "exchangeToken")]
    async fn exchange(
        &self,
        services: Data<&Arc<Services>>,
        request: &Request,
        form: Form<TokenExchangeForm>,
    ) -> Result<Json<TokenExchanged>, Problem> {
        let Form(form) = form;
        form.check()?;
        let attributes = form.attributes()?;
        let subject_token = SecretString::from(form.subject_token);
        let login = log_in_with_issuer_jwt(request, subject_token.expose_secret()).await;
        let (caller, admission) = login.map_err(as_subject_token_error)?.ok_or_else(untrusted_subject_token)?;
        let description = admission.description();
        let life = form.requested_life.unwrap_or_else(|| services.tokens.max_life(&caller).to_string());
        let issued = services.tokens.issue(&caller, description.as_str(), &life, attributes, None).await;
        let issued = issued.map_err(exchange_error)?;
        let scopes = &issued.token.attributes.scopes;
        Ok(Json(TokenExchanged {
            access_token: issued.jwt.expose_secret().into(),
            issued_token_type: TOKEN_TYPE.into(),
            token_type: "Bearer".into(),
            expires_in: issued.token.life.seconds(),
            scope: Some(scopes.as_str()).filter(|scopes| !scopes.is_empty()).map(str::to_owned),
        }))
    }
}

impl TokenExchangeForm {
    /// The scopes and audiences of the token.
    fn attributes(&self) -> Result<Attributes, Problem> {
        let scopes = self.scope.as_ref().map(|scopes| Scopes::parse(scopes.split(' ')));
        let scopes = scopes
            .transpose()
            .map_err(|error| Problem::bad_request(format!("scope: {error}.")).with_error("invalid_scope"))?;
        let audiences = self.audience.as_ref().map(|all| Audiences::parse(all.iter().map(String::as_str)));
        let audiences = audiences
            .transpose()
            .map_err(|error| Problem::bad_request(format!("audience: {error}.")).with_error("invalid_target"))?;
        let (scopes, audiences) = (scopes.unwrap_or_default(), audiences.unwrap_or_default());
        Ok(Attributes { scopes, audiences, ..Attributes::default() })
    }

    /// Checks what does not need the JWT.
    fn check(&self) -> Result<(), Problem> {
        if self.grant_type != GRANT_TYPE {
            return Err(unsupported_grant_type());
        }
        if self.subject_token.is_empty() {
            return Err(Problem::bad_request("The body: missing field `subject_token`."));
        }
        if !SUBJECT_TOKEN_TYPES.contains(&&*self.subject_token_type) {
            return Err(Problem::bad_request(format!("subject_token_type: {}.", SUBJECT_TOKEN_TYPES.join(" or "))));
        }
        if self.actor_token.is_some() {
            return Err(Problem::bad_request("actor_token: nobody can act for somebody else here."));
        }
        if self.resource.is_some() {
            let detail = "resource: name the services that the token is for by audience.";
            return Err(Problem::bad_request(detail).with_error("invalid_target"));
        }
        match &self.requested_token_type {
            Some(other) if !REQUESTED_TOKEN_TYPES.contains(&&**other) => {
                Err(Problem::bad_request(format!("requested_token_type: {}.", REQUESTED_TOKEN_TYPES.join(" or "))))
            }
            _ => Ok(()),
        }
    }
}

/// 400 for another grant type.
pub(super) fn unsupported_grant_type() -> Problem {
    Problem::bad_request(format!("grant_type: only {GRANT_TYPE} is supported.")).with_error("unsupported_grant_type")
}

/// 400 for a JWT that is not of a trusted issuer (RFC 8693, section 2.2.2).
pub(super) fn untrusted_subject_token() -> Problem {
    Problem::bad_request("subject_token: this is no JWT of an issuer that is trusted here.")
}

/// 400 for a JWT that does not log in: RFC 8693, section 2.2.2, has no 401.
fn as_subject_token_error(problem: Problem) -> Problem {
    match problem.status() {
        StatusCode::UNAUTHORIZED => Problem::bad_request(format!("subject_token: {}", problem.detail())),
        _ => problem,
    }
}

/// The problem of a token that was not issued, in the words of the form.
fn exchange_error(error: IssueError) -> Problem {
    match error {
        IssueError::Life(error) => Problem::bad_request(format!("requested_life: {error}.")),
        IssueError::Scope(error) => Problem::bad_request(format!("scope: {error}.")).with_error("invalid_scope"),
        error => error.into(),
    }
}
