//! The attributes of tokens in requests and answers: scopes, audiences and networks.

use poem_openapi::Object;
use serde::Serialize;
use serde_json::{Value, json};

use super::problem::Problem;
use crate::domain::attributes::{Attribute, AttributeError, Attributes, Audiences, Networks, Scopes};

/// The fields of a request and of a token in an answer.
const SCOPES: &str = "jwt_token_scopes";
const AUDIENCES: &str = "jwt_token_audiences";
const NETWORKS: &str = "jwt_token_networks";

/// The attributes of a token in a list and in its details. An attribute that the token does not have is left out.
#[derive(Serialize, Object)]
#[oai(skip_serializing_if_is_none)]
#[expect(clippy::struct_field_names, reason = "the API's contract has these names")]
pub(super) struct TokenAttributes {
    /// Its scopes, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_token_scopes: Option<Vec<String>>,
    /// The services that it is for, if it names any.
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_token_audiences: Option<Vec<String>>,
    /// The networks and addresses that it may be used from, if it is limited to some.
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt_token_networks: Option<Vec<String>>,
}

/// The attributes of a token in the answer of introspection (RFC 7662, section 2.2).
#[derive(Default, Serialize, Object)]
#[oai(skip_serializing_if_is_none)]
pub(super) struct IntrospectedAttributes {
    /// Its scopes with a space between two, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
    /// The services that it is for, if it names any.
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<Vec<String>>,
    /// The networks and addresses that it may be used from, if it is limited to some. Introspection does not know the
    /// address of your client: compare it yourself.
    #[serde(skip_serializing_if = "Option::is_none")]
    networks: Option<Vec<String>>,
}

impl From<&Attributes> for TokenAttributes {
    fn from(attributes: &Attributes) -> Self {
        Self {
            jwt_token_scopes: entries(&attributes.scopes),
            jwt_token_audiences: entries(&attributes.audiences),
            jwt_token_networks: entries(&attributes.networks),
        }
    }
}

impl From<&Attributes> for IntrospectedAttributes {
    fn from(attributes: &Attributes) -> Self {
        Self {
            scope: entries(&attributes.scopes).map(|scopes| scopes.join(" ")),
            aud: entries(&attributes.audiences),
            networks: entries(&attributes.networks),
        }
    }
}

/// The entries of an attribute; `None`: the token does not have it.
fn entries(attribute: &impl Attribute) -> Option<Vec<String>> {
    let entries: Vec<String> = attribute.entries().collect();
    (!entries.is_empty()).then_some(entries)
}

/// The attributes that a request asks for; 400 for one that breaks a rule.
pub(super) fn parse(
    scopes: Option<Vec<String>>,
    audiences: Option<Vec<String>>,
    networks: Option<Vec<String>>,
) -> Result<Attributes, Problem> {
    Ok(Attributes {
        scopes: parse_field::<Scopes>(SCOPES, scopes)?,
        audiences: parse_field::<Audiences>(AUDIENCES, audiences)?,
        networks: parse_field::<Networks>(NETWORKS, networks)?,
    })
}

fn parse_field<A: Attribute + Default>(field: &str, entries: Option<Vec<String>>) -> Result<A, Problem> {
    let Some(entries) = entries else { return Ok(A::default()) };
    A::parse(entries.iter().map(String::as_str)).map_err(|AttributeError { index, rule }| {
        let index = index.map(|index| format!("[{index}]")).unwrap_or_default();
        Problem::bad_request(format!("{field}{index}: {rule}."))
    })
}

/// The schema of each field of a request, for the OpenAPI document.
pub(super) fn request_schemas() -> [(&'static str, Value); 3] {
    [(SCOPES, schema::<Scopes>()), (AUDIENCES, schema::<Audiences>()), (NETWORKS, schema::<Networks>())]
}

/// What a description does not say: it is in the document already.
fn schema<A: Attribute>() -> Value {
    json!({
        "minItems": A::MIN_ENTRIES,
        "maxItems": A::MAX_ENTRIES,
        "uniqueItems": true,
        "items": { "type": "string", "pattern": A::ENTRY_PATTERN },
    })
}
