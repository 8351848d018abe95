//! The login by a trusted proxy, which has logged the user in itself and sends the name in a header
//! (`MAYFLY_TRUSTED_USER_HEADER`).
//!
//! Only the exact name of the header counts, in upper or lower case: `Remote_User` is another header than
//! `Remote-User`.

use std::sync::Arc;

use poem::Request;

use super::{browser, client_address::TrustedProxies, problem::Problem};
use crate::{
    domain::{
        origin::Origin,
        user::{Role, UserName, UserNameError},
    },
    service::{LoginLimits, external_login::ExternalLogin},
};

/// The login that a trusted proxy vouches for in this request; `None`: it names nobody. 400 for a second header, and
/// for a text that is no name; 403 for a write that a page of another site may have had the user's browser send.
pub(super) fn login_of(request: &Request) -> Result<Option<ExternalLogin>, Problem> {
    let proxies = request.data::<Arc<TrustedProxies>>().expect("`endpoint` adds the proxies to each request");
    let Some((header, values)) = proxies.user_headers(request) else { return Ok(None) };
    let value = match *values {
        [] => return Ok(None),
        // Some proxies send an empty header where nobody is logged in.
        [value] if value.is_empty() => return Ok(None),
        [value] => value,
        _ => return Err(Problem::bad_request(format!("A request has one {header} header."))),
    };
    // A text that is not ASCII is no name, either.
    let name = value.to_str().unwrap_or_default().parse();
    let name: UserName = name.map_err(|error: UserNameError| Problem::bad_request(format!("{header}: {error}.")))?;
    browser::expect_own_page(request)?;
    Ok(Some(ExternalLogin {
        name,
        origin: Origin::Proxy,
        // The header says nothing about roles: an administrator may give the user any.
        role: Role::User,
        max_role: Role::Admin,
        limits: LoginLimits::default(),
    }))
}
