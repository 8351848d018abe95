//! A verified token, and what a request may demand of one.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{error::Rejection, wire::TokenId};

/// A live token. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<Facts>);

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) id: TokenId,
    pub(crate) username: String,
    pub(crate) issued_at: Option<u64>,
    pub(crate) expires_at: u64,
    pub(crate) issuer: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) audiences: Vec<String>,
    pub(crate) networks: Vec<IpNet>,
}

impl Token {
    pub(crate) fn new(facts: Facts) -> Self {
        Self(Arc::new(facts))
    }

    /// The id of the token: the `jti` of its JWT, a UUID in lower case.
    pub fn id(&self) -> TokenId {
        self.0.id
    }

    /// The name of the user whom the token belongs to.
    pub fn username(&self) -> &str {
        &self.0.username
    }

    /// When the token was issued, in seconds since 1970 (UTC).
    pub fn issued_at(&self) -> Option<u64> {
        self.0.issued_at
    }

    /// When the token expires, in seconds since 1970 (UTC).
    pub fn expires_at(&self) -> u64 {
        self.0.expires_at
    }

    /// The issuer, if the service has one configured.
    pub fn issuer(&self) -> Option<&str> {
        self.0.issuer.as_deref()
    }

    /// The scopes of the token. A token without scopes has none.
    pub fn scopes(&self) -> &[String] {
        &self.0.scopes
    }

    /// The audiences of the token; empty: it is not meant for particular ones.
    pub fn audiences(&self) -> &[String] {
        &self.0.audiences
    }

    /// The networks from which the token may be used; empty: from anywhere.
    pub fn networks(&self) -> &[IpNet] {
        &self.0.networks
    }

    /// Whether the token has this scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.0.scopes.iter().any(|of_token| of_token == scope)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The demands of a request on its token. All of them hold together.
///
/// ```
/// use mayfly_verifier::Demands;
///
/// let demands = Demands::new().scope("orders:read").audience("https://shop.example");
/// # let _ = demands;
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demands {
    scopes: Vec<String>,
    audience: Option<String>,
    client: Option<IpAddr>,
}

impl Demands {
    /// No demands: any live token, unless it is bound to networks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Also demands this scope.
    #[must_use]
    pub fn scope(mut self, scope: impl Into<String>) -> Self {
        self.scopes.push(scope.into());
        self
    }

    /// Demands a token for this audience. A token without audiences has none.
    #[must_use]
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Tells the address of the client. Without one, tokens that are bound to networks are rejected.
    #[must_use]
    pub fn client(mut self, address: impl Into<Option<IpAddr>>) -> Self {
        self.client = address.into();
        self
    }

    /// The scopes that are demanded.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    pub(crate) fn check(&self, token: &Token) -> Result<(), Rejection> {
        if let Some(audience) = &self.audience
            && !token.audiences().contains(audience)
        {
            return Err(Rejection::Audience);
        }
        if !self.scopes.iter().all(|scope| token.has_scope(scope)) {
            return Err(Rejection::Scope(self.scopes.join(" ")));
        }
        // An IPv4 client of an IPv6 socket has an address that is mapped to IPv6.
        let client = self.client.map(|address| address.to_canonical());
        let is_inside = |network: &IpNet| client.is_some_and(|client| network.contains(&client));
        if !token.networks().is_empty() && !token.networks().iter().any(is_inside) {
            return Err(Rejection::Network);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn token(id: TokenId) -> Token {
        Token::new(Facts {
            id,
            username: "alice".into(),
            issued_at: None,
            expires_at: 0,
            issuer: None,
            scopes: vec!["read".into(), "write".into()],
            audiences: vec!["https://shop.example".into()],
            networks: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        })
    }

    #[test]
    fn all_demands_hold_together() {
        let token = token(TokenId::parse("b56929f3-54f1-4dc2-9984-9bba615e26e6").unwrap());
        let met = Demands::new().client("192.0.2.7".parse::<IpAddr>().ok());
        assert_eq!(met.check(&token), Ok(()));
        assert_eq!(met.clone().scope("read").scope("write").check(&token), Ok(()));
        assert_eq!(met.clone().audience("https://shop.example").check(&token), Ok(()));
        let lacking = met.clone().scope("read").scope("admin").check(&token);
        assert_eq!(lacking, Err(Rejection::Scope("read admin".into())));
        assert_eq!(met.clone().scope("rea").check(&token), Err(Rejection::Scope("rea".into())));
        assert_eq!(met.audience("https://shop.example/").check(&token), Err(Rejection::Audience));
        for (address, is_inside) in
            [("::ffff:192.0.2.7", true), ("2001:db8::1", true), ("192.0.3.7", false), ("2001:db9::1", false)]
        {
            let demands = Demands::new().client(address.parse::<IpAddr>().ok());
            assert_eq!(demands.check(&token).is_ok(), is_inside, "{address}");
        }
        assert_eq!(Demands::new().check(&token), Err(Rejection::Network), "an unknown address is in no network");
    }
}
