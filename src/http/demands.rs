//! The demands on a token in a request to `/verify`, from the configuration of the proxy that asks.
//!
//! All demands hold together, so that a client whose headers or query the proxy passes on can only demand more. A
//! demand that cannot be read is never left out: it is answered with 400.

use poem::{
    Request,
    http::{HeaderValue, StatusCode, header},
};

use super::{auth::bearer_required, problem::Problem};
use crate::{
    domain::demands::{DemandError, Demands, Unmet},
    service::tokens::{AcceptError, VerifyError},
};

/// The headers `X-Auth-Require-Scope` and `X-Auth-Require-Audience`. Any other that begins like them is one of them,
/// misspelt.
const HEADER_PREFIX: &str = "x-auth-require";

/// The demands in the query and in the headers of a request.
///
/// `owns_query`: the query is the proxy's own, and not that of the request which the proxy asks about. Then it has no
/// other parameters than demands: another one is a demand, misspelt.
pub(super) fn demands_of(request: &Request, owns_query: impl Fn() -> bool) -> Result<Demands<'_>, Problem> {
    let mut demands = Demands::default();
    for (name, value) in request.headers() {
        let Some(kind) = name.as_str().strip_prefix(HEADER_PREFIX) else { continue };
        // Text that is not ASCII is no demand, either.
        let value = value.to_str().unwrap_or_default().into();
        let result = match kind {
            "-scope" => demands.demand_scopes(value),
            "-audience" => demands.demand_audience(value),
            _ => return Err(unknown("X-Auth-Require-Scope and X-Auth-Require-Audience")),
        };
        result.map_err(|error| malformed(name.as_str(), error))?;
    }
    let query = request.uri().query().unwrap_or_default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let result = match &*name {
            "scope" => demands.demand_scopes(value),
            "audience" => demands.demand_audience(value),
            _ if owns_query() => return Err(unknown("the parameters scope and audience")),
            _ => Ok(()),
        };
        result.map_err(|error| malformed(&name, error))?;
    }
    Ok(demands)
}

/// 400: the text of a demand is malformed.
pub(super) fn malformed(name: &str, error: DemandError) -> Problem {
    Problem::bad_request(format!("{name}: {error}."))
}

/// 400: a demand has another name.
fn unknown(names: &str) -> Problem {
    Problem::bad_request(format!("Demands on a token are {names}, and no others."))
}

impl From<AcceptError> for Problem {
    fn from(error: AcceptError) -> Self {
        match error {
            AcceptError::Verify(error) => bearer_required(Some(error)),
            AcceptError::Unmet(unmet) => unmet.into(),
        }
    }
}

/// 401 for another audience, as for a token that was not issued here. 403 for a missing scope or another network.
impl From<Unmet> for Problem {
    fn from(unmet: Unmet) -> Self {
        let (detail, scope) = match unmet {
            Unmet::Audience => return bearer_required(Some(VerifyError::Invalid)),
            Unmet::Network(Some(client)) => (format!("The token may not be used from {client}."), String::new()),
            Unmet::Network(None) => {
                let detail = "The token may be used from some networks only, and the client's address is not known.";
                (detail.to_owned(), String::new())
            }
            Unmet::Scopes { demanded, missing } => {
                (format!("The token lacks what is demanded here: scope {missing}."), format!(", scope=\"{demanded}\""))
            }
        };
        let challenge = format!(r#"Bearer realm="mayfly", error="insufficient_scope"{scope}"#);
        let challenge = HeaderValue::try_from(challenge).expect("scopes are visible ASCII without quotes");
        Self::new(StatusCode::FORBIDDEN, detail).with_header(header::WWW_AUTHENTICATE, challenge)
    }
}
