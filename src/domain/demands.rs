//! What a service demands of a token besides that it is live.

use std::{borrow::Cow, net::IpAddr};

use super::attributes::{Attributes, Audiences, Scopes};

/// Demands that a token must meet together. By default, there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demands<'a> {
    /// Lists of scopes, each with a space between two.
    scopes: Vec<Cow<'a, str>>,
    audiences: Vec<Cow<'a, str>>,
    /// At least one of these audiences, if there are any.
    any_audience: &'a [String],
}

/// Why a text is not a demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DemandError {
    /// It is not a list of scopes.
    #[error("name scopes of RFC 6749 with one space between two")]
    Scopes,
    /// It is not an audience.
    #[error("name one audience of 1 to {} visible ASCII characters", Audiences::MAX_CHARS)]
    Audience,
    /// There are more demands than any token meets.
    #[error("too many at once")]
    TooMany,
}

/// Why a live token is not accepted here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// The token is not for a demanded audience.
    #[error("not for this audience")]
    Audience,
    /// The token may not be used from this address; `None`: the address of the client is not known.
    #[error("not from this network")]
    Network(Option<IpAddr>),
    /// The token lacks demanded scopes. Both are written with a space between two scopes.
    #[error("lacks scopes: {missing}")]
    Scopes {
        /// All that are demanded.
        demanded: String,
        /// Those of them that the token lacks.
        missing: String,
    },
}

impl<'a> Demands<'a> {
    /// The most bytes of demanded scopes: twice what a token can have, as a demand may be repeated.
    const MAX_SCOPE_BYTES: usize = 2 * Scopes::MAX_BYTES;
    const MAX_AUDIENCES: usize = 16;

    /// Demands at least one of these audiences, if there are any.
    pub fn for_any_audience(audiences: &'a [String]) -> Self {
        Self { any_audience: audiences, ..Self::default() }
    }

    /// Demands all scopes of this list, which has a space between two.
    pub fn demand_scopes(&mut self, list: Cow<'a, str>) -> Result<(), DemandError> {
        if !list.split(' ').all(Scopes::is_scope) {
            return Err(DemandError::Scopes);
        }
        self.scopes.push(list);
        let bytes: usize = self.scopes.iter().map(|list| list.len()).sum();
        if bytes > Self::MAX_SCOPE_BYTES { Err(DemandError::TooMany) } else { Ok(()) }
    }

    /// Demands this audience, beside the others.
    pub fn demand_audience(&mut self, audience: Cow<'a, str>) -> Result<(), DemandError> {
        if !Audiences::is_audience(&audience) {
            return Err(DemandError::Audience);
        }
        self.audiences.push(audience);
        if self.audiences.len() > Self::MAX_AUDIENCES { Err(DemandError::TooMany) } else { Ok(()) }
    }

    /// Whether a token with these attributes meets the demands, and may be used from the address of the client. That
    /// address is asked for only if the token is limited to networks; `None`: it is not known.
    pub fn check(&self, attributes: &Attributes, client: impl FnOnce() -> Option<IpAddr>) -> Result<(), Unmet> {
        let is_for = |audience: &str| attributes.audiences.contains(audience);
        let is_for_one_of = |audiences: &[String]| audiences.is_empty() || audiences.iter().any(|one| is_for(one));
        if !self.audiences.iter().all(|audience| is_for(audience)) || !is_for_one_of(self.any_audience) {
            return Err(Unmet::Audience);
        }
        let mut address = None;
        if !attributes.networks.allow(|| {
            address = client();
            address
        }) {
            return Err(Unmet::Network(address));
        }
        let demanded = || self.scopes.iter().flat_map(|list| list.split(' '));
        if demanded().all(|scope| attributes.scopes.contains(scope)) {
            return Ok(());
        }
        let missing: Vec<_> = demanded().filter(|scope| !attributes.scopes.contains(scope)).collect();
        Err(Unmet::Scopes { demanded: self.scopes.join(" "), missing: missing.join(" ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::attributes::{Attribute, Networks};

    fn attributes(scopes: &str, audiences: &str, networks: &str) -> Attributes {
        fn read<A: Attribute + Default>(text: &str) -> A {
            if text.is_empty() { A::default() } else { A::parse(text.split(' ')).unwrap() }
        }
        Attributes {
            scopes: read::<Scopes>(scopes),
            audiences: read::<Audiences>(audiences),
            networks: read::<Networks>(networks),
        }
    }

    fn demands(scopes: &[&'static str], audiences: &[&'static str]) -> Demands<'static> {
        let mut demands = Demands::default();
        for list in scopes {
            demands.demand_scopes((*list).into()).unwrap();
        }
        for audience in audiences {
            demands.demand_audience((*audience).into()).unwrap();
        }
        demands
    }

    fn missing(demanded: &str, missing: &str) -> Result<(), Unmet> {
        Err(Unmet::Scopes { demanded: demanded.to_owned(), missing: missing.to_owned() })
    }

    #[test]
    fn all_demands_hold_together() {
        let unasked = || unreachable!("no address is needed");
        let token = attributes("read write", "a b", "");
        for (scopes, audiences, expected) in [
            (&[][..], &[][..], Ok(())),
            (&["read"], &[], Ok(())),
            (&["write read", "read"], &["b", "a", "a"], Ok(())),
            (&["read", "deploy"], &[], missing("read deploy", "deploy")),
            (&["deploy read drop"], &["a"], missing("deploy read drop", "deploy drop")),
            (&["READ"], &[], missing("READ", "READ")),
            (&["read"], &["a", "c"], Err(Unmet::Audience)),
            (&["deploy"], &["A"], Err(Unmet::Audience)),
        ] {
            assert_eq!(demands(scopes, audiences).check(&token, unasked), expected, "{scopes:?} {audiences:?}");
        }
        let bare = Attributes::default();
        assert_eq!(demands(&[], &[]).check(&bare, unasked), Ok(()));
        assert_eq!(demands(&["read"], &[]).check(&bare, unasked), missing("read", "read"));
        assert_eq!(demands(&[], &["a"]).check(&bare, unasked), Err(Unmet::Audience));
    }

    #[test]
    fn a_token_of_some_networks_is_not_accepted_from_an_unknown_address() {
        let token = attributes("", "", "10.0.0.0/8");
        let inside = "10.1.2.3".parse().unwrap();
        let outside = "192.0.2.1".parse().unwrap();
        assert_eq!(Demands::default().check(&token, || Some(inside)), Ok(()));
        for client in [Some(outside), None] {
            assert_eq!(Demands::default().check(&token, || client), Err(Unmet::Network(client)));
        }
    }

    #[test]
    fn a_malformed_demand_is_an_error() {
        let mut demands = Demands::default();
        for list in ["", " ", "a  b", " a", "a ", "a\tb", "\"a\"", "ü", "\u{fffd}"] {
            assert_eq!(demands.demand_scopes(list.into()), Err(DemandError::Scopes), "{list:?}");
        }
        for audience in ["", "a b", "ü"] {
            assert_eq!(demands.demand_audience(audience.into()), Err(DemandError::Audience), "{audience:?}");
        }
        let long = "x".repeat(Scopes::MAX_BYTES);
        let results: Vec<_> = (0..3).map(|_| demands.demand_scopes((&*long).into())).collect();
        assert_eq!(results, [Ok(()), Ok(()), Err(DemandError::TooMany)]);
        let results: Vec<_> = (0..17).map(|_| demands.demand_audience("x".into())).collect();
        assert_eq!((results[15], results[16]), (Ok(()), Err(DemandError::TooMany)));
    }
}
