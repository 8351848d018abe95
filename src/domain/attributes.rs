//! What a token may carry beside its description and life, all of it optional: scopes, audiences and networks.
//!
//! A further attribute is a type here that implements [`Attribute`], and a field of [`Attributes`]. The others that
//! have to know it: `store/redis/records.rs`, `http/attributes.rs` and `http/token.rs` (the field of the request), and
//! `domain/claims.rs` if it is a claim, too. All else passes [`Attributes`] on whole.

use std::{net::IpAddr, ops::Deref, sync::Arc};

use ipnet::IpNet;

/// The attributes of a token. By default, it has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// What the token may be used for.
    pub scopes: Scopes,
    /// The services that the token is for.
    pub audiences: Audiences,
    /// Where the token may be used from.
    pub networks: Networks,
}

/// The attributes of a token, shared by the copies of it. A token without attributes takes a null pointer for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedAttributes(Option<Arc<Attributes>>);

impl Attributes {
    const NONE: Self =
        Self { scopes: Scopes(String::new()), audiences: Audiences(String::new()), networks: Networks(Vec::new()) };
}

impl Attributes {
    /// The entries of each attribute: equal for equal attributes, and for no others.
    pub fn entries(&self) -> [Vec<String>; 3] {
        let Self { scopes, audiences, networks } = self;
        [scopes.entries().collect(), audiences.entries().collect(), networks.entries().collect()]
    }
}

impl SharedAttributes {
    /// The memory that they take beside this pointer, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |attributes| {
            let Attributes { scopes, audiences, networks } = &**attributes;
            let lists = scopes.0.capacity() + audiences.0.capacity() + networks.0.capacity() * size_of::<IpNet>();
            size_of::<Attributes>() + 2 * size_of::<usize>() + lists
        })
    }
}

impl From<Attributes> for SharedAttributes {
    fn from(attributes: Attributes) -> Self {
        Self((attributes != Attributes::NONE).then(|| Arc::new(attributes)))
    }
}

impl Deref for SharedAttributes {
    type Target = Attributes;

    fn deref(&self) -> &Attributes {
        static NONE: Attributes = Attributes::NONE;
        self.0.as_deref().unwrap_or(&NONE)
    }
}

/// An attribute: a list of texts without spaces. The empty list means that a token does not have the attribute.
pub trait Attribute: Sized {
    /// The least number of entries of a list that a client sends.
    const MIN_ENTRIES: usize;
    /// The most entries.
    const MAX_ENTRIES: usize;
    /// A regular expression (ECMA-262) for an entry, for the OpenAPI document. It may allow more than can be parsed.
    const ENTRY_PATTERN: &str;

    /// Parses at most [`Self::MAX_ENTRIES`] entries, no two of them equal.
    fn parse<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Self, AttributeError>;

    /// The entries, in their order.
    fn entries(&self) -> impl Iterator<Item = String>;
}

/// Why a list of texts is not an attribute.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}")]
pub struct AttributeError {
    /// The entry that breaks the rule, counted from 0; `None`: the list as a whole does.
    pub index: Option<usize>,
    /// The rule that it breaks.
    pub rule: AttributeRule,
}

/// A rule for the entries of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttributeRule {
    /// The list has at most this number of entries.
    #[error("must have at most {0} entries")]
    MaxEntries(usize),
    /// The list is not empty.
    #[error("must not be empty: leave the field out instead")]
    NotEmpty,
    /// No entry occurs twice.
    #[error("must not be there twice")]
    Unique,
    /// A scope token of RFC 6749, section 3.3.
    #[error("must be a scope of RFC 6749: visible ASCII characters other than \" and \\, and no space")]
    Scope,
    /// All scopes together are at most [`Scopes::MAX_BYTES`] long.
    #[error("must have at most {} bytes in all, with a space between two scopes", Scopes::MAX_BYTES)]
    ScopesLength,
    /// An audience.
    #[error("must be 1 to {} visible ASCII characters", Audiences::MAX_CHARS)]
    Audience,
    /// An address, or a network in the notation of CIDR.
    #[error("must be an address or a network, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32")]
    Network,
    /// The address of a network has no bits beyond its prefix: it would be this one.
    #[error("must not have bits set beyond its prefix: write {0}")]
    HostBits(IpNet),
    /// IPv4 is not written as IPv6.
    #[error("must not be IPv4 written as IPv6: write it without ::ffff:")]
    MappedIpv4,
    /// A network does not contain all addresses.
    #[error("must not contain all addresses: leave the field out to allow them")]
    NotEverything,
}

/// What a token may be used for: scope tokens (RFC 6749, section 3.3). A token without them has no scope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(String);

impl Scopes {
    /// Maximum length in bytes, with a space between two scopes.
    pub const MAX_BYTES: usize = 1024;

    /// The scopes with a space between two, as in the claim `scope` (RFC 8693, section 4.2).
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this scope is one of them.
    pub fn contains(&self, scope: &str) -> bool {
        split(&self.0).any(|own| own == scope)
    }

    /// Whether a text is a scope token.
    pub fn is_scope(text: &str) -> bool {
        !text.is_empty() && text.bytes().all(|c| matches!(c, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
    }
}

impl Attribute for Scopes {
    const MIN_ENTRIES: usize = 0;
    const MAX_ENTRIES: usize = 32;
    const ENTRY_PATTERN: &str = r"^[!#-\[\]-~]{1,1024}$";

    fn parse<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Self, AttributeError> {
        let joined = join::<Self>(entries, Self::is_scope, AttributeRule::Scope)?;
        if joined.len() > Self::MAX_BYTES {
            return Err(AttributeError { index: None, rule: AttributeRule::ScopesLength });
        }
        Ok(Self(joined))
    }

    fn entries(&self) -> impl Iterator<Item = String> {
        split(&self.0).map(str::to_owned)
    }
}

/// The services that a token is for (RFC 7519, section 4.1.3). A token without them is for no service in particular.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audiences(String);

impl Audiences {
    /// Maximum length of one audience, in characters.
    pub const MAX_CHARS: usize = 256;

    /// Whether this audience is one of them.
    pub fn contains(&self, audience: &str) -> bool {
        split(&self.0).any(|own| own == audience)
    }

    /// Whether a text is an audience.
    pub fn is_audience(text: &str) -> bool {
        (1..=Self::MAX_CHARS).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic())
    }
}

impl Attribute for Audiences {
    const MIN_ENTRIES: usize = 1;
    const MAX_ENTRIES: usize = 8;
    const ENTRY_PATTERN: &str = "^[!-~]{1,256}$";

    fn parse<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Self, AttributeError> {
        Ok(Self(join::<Self>(entries, Self::is_audience, AttributeRule::Audience)?))
    }

    fn entries(&self) -> impl Iterator<Item = String> {
        split(&self.0).map(str::to_owned)
    }
}

/// The networks that a token may be used from. A token without them may be used from everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether a client of this address may use the token. An unknown address is in no network.
    pub fn allow(&self, client: impl FnOnce() -> Option<IpAddr>) -> bool {
        let is_in_one = |client: IpAddr| self.0.iter().any(|network| network.contains(&client.to_canonical()));
        self.0.is_empty() || client().is_some_and(is_in_one)
    }
}

impl Attribute for Networks {
    // Of an empty list it is not clear whether it allows no address or all.
    const MIN_ENTRIES: usize = 1;
    const MAX_ENTRIES: usize = 16;
    const ENTRY_PATTERN: &str = r"^[0-9A-Fa-f.:]{2,45}(/[0-9]{1,3})?$";

    fn parse<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Self, AttributeError> {
        let mut networks = Vec::new();
        for (index, text) in entries.enumerate() {
            check_count::<Self>(index)?;
            let fail = |rule| AttributeError { index: Some(index), rule };
            let network = parse_network(text).map_err(fail)?;
            if networks.contains(&network) {
                return Err(fail(AttributeRule::Unique));
            }
            networks.push(network);
        }
        check_not_empty::<Self>(networks.is_empty())?;
        Ok(Self(networks))
    }

    /// A network of one address is written as the address.
    fn entries(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|network| {
            let is_address = network.prefix_len() == network.max_prefix_len();
            if is_address { network.addr().to_string() } else { network.to_string() }
        })
    }
}

fn parse_network(text: &str) -> Result<IpNet, AttributeRule> {
    // Not ipnet's own parser: it reads 010.0.0.0/8 as 10.0.0.0/8, where others read 8.0.0.0/8.
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().map_err(|_| AttributeRule::Network)?;
    let network = match prefix {
        None => IpNet::from(address),
        Some(prefix) => {
            // Not `+8` and `08`, which `parse` takes, too.
            let length: Option<u8> = prefix.parse().ok().filter(|length: &u8| length.to_string() == prefix);
            length.and_then(|length| IpNet::new(address, length).ok()).ok_or(AttributeRule::Network)?
        }
    };
    if address != address.to_canonical() {
        return Err(AttributeRule::MappedIpv4);
    }
    if network.prefix_len() == 0 {
        return Err(AttributeRule::NotEverything);
    }
    let truncated = network.trunc();
    if network == truncated { Ok(network) } else { Err(AttributeRule::HostBits(truncated)) }
}

/// Checks the entries of a list of texts, and joins them by spaces.
fn join<'a, A: Attribute>(
    entries: impl Iterator<Item = &'a str>,
    is_entry: fn(&str) -> bool,
    rule: AttributeRule,
) -> Result<String, AttributeError> {
    let mut joined = String::new();
    for (index, entry) in entries.enumerate() {
        check_count::<A>(index)?;
        let fail = |rule| AttributeError { index: Some(index), rule };
        if !is_entry(entry) {
            return Err(fail(rule));
        }
        if split(&joined).any(|earlier| earlier == entry) {
            return Err(fail(AttributeRule::Unique));
        }
        if index > 0 {
            joined.push(' ');
        }
        joined.push_str(entry);
    }
    check_not_empty::<A>(joined.is_empty())?;
    Ok(joined)
}

/// The texts that [`join`] joined.
fn split(joined: &str) -> impl Iterator<Item = &str> {
    joined.split(' ').filter(|text| !text.is_empty())
}

/// An error, if an attribute may not have an entry at this index.
fn check_count<A: Attribute>(index: usize) -> Result<(), AttributeError> {
    let error = || AttributeError { index: None, rule: AttributeRule::MaxEntries(A::MAX_ENTRIES) };
    (index < A::MAX_ENTRIES).then_some(()).ok_or_else(error)
}

fn check_not_empty<A: Attribute>(is_empty: bool) -> Result<(), AttributeError> {
    let error = || AttributeError { index: None, rule: AttributeRule::NotEmpty };
    (!is_empty || A::MIN_ENTRIES == 0).then_some(()).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The entries as they are written, or the index and the rule that is broken.
    fn parsed<A: Attribute>(entries: &[&str]) -> Result<Vec<String>, (Option<usize>, AttributeRule)> {
        let parsed = A::parse(entries.iter().copied());
        parsed.map(|attribute| attribute.entries().collect()).map_err(|AttributeError { index, rule }| (index, rule))
    }

    #[test]
    fn scopes_are_those_of_rfc_6749() {
        let scopes = ["read", "repo:status", "https://example.com/auth#all", "!#[]~,;='"];
        assert_eq!(parsed::<Scopes>(&scopes).unwrap(), scopes);
        assert_eq!(parsed::<Scopes>(&[]), Ok(vec![]));
        for bad in ["", " ", "a b", "\"", "\\", "a\n", "\u{7f}", "ü"] {
            assert_eq!(parsed::<Scopes>(&["a", bad]), Err((Some(1), AttributeRule::Scope)), "{bad:?}");
        }
        assert_eq!(parsed::<Scopes>(&["a", "b", "a"]), Err((Some(2), AttributeRule::Unique)));
        let parsed = Scopes::parse(["read", "write"].into_iter()).unwrap();
        assert_eq!(parsed.as_str(), "read write");
        assert!(parsed.contains("read") && !parsed.contains("rea") && !parsed.contains("") && !parsed.contains("e w"));
    }

    #[test]
    fn scopes_are_bounded_in_number_and_in_all() {
        let numbered: Vec<String> = (100..133).map(|number| format!("{number:0>31}")).collect();
        let numbered: Vec<&str> = numbered.iter().map(String::as_str).collect();
        let all = Scopes::parse(numbered[..32].iter().copied()).unwrap();
        assert_eq!(all.as_str().len(), 1023);
        assert_eq!(parsed::<Scopes>(&numbered), Err((None, AttributeRule::MaxEntries(32))));
        for (length, is_accepted) in [(1024, true), (1025, false)] {
            assert_eq!(parsed::<Scopes>(&[&"x".repeat(length)]).is_ok(), is_accepted);
            assert_eq!(parsed::<Scopes>(&["a", &"x".repeat(length - 2)]).is_ok(), is_accepted);
        }
    }

    #[test]
    fn audiences_are_visible_ascii() {
        let audiences = ["https://api.example", "\"quoted\\\"", &"x".repeat(256)];
        assert_eq!(parsed::<Audiences>(&audiences).unwrap(), audiences);
        for bad in ["", "a b", "ü", "\t", &"x".repeat(257)] {
            assert_eq!(parsed::<Audiences>(&[bad]), Err((Some(0), AttributeRule::Audience)), "{bad:?}");
        }
        assert_eq!(parsed::<Audiences>(&["a", "a"]), Err((Some(1), AttributeRule::Unique)));
        assert_eq!(parsed::<Audiences>(&[]), Err((None, AttributeRule::NotEmpty)));
        let nine = ["1", "2", "3", "4", "5", "6", "7", "8", "9"];
        assert!(parsed::<Audiences>(&nine[..8]).is_ok());
        assert_eq!(parsed::<Audiences>(&nine), Err((None, AttributeRule::MaxEntries(8))));
    }

    #[test]
    fn networks_have_one_written_form() {
        for (text, written) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("2001:DB8:0:0::/32", "2001:db8::/32"),
            ("::1", "::1"),
        ] {
            assert_eq!(parsed::<Networks>(&[text]), Ok(vec![written.to_owned()]), "{text}");
        }
        for bad in [
            "",
            "x",
            "localhost",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "010.0.0.0/8",
            "10.0.0/8",
            " 10.0.0.0/8",
            "10.0.0.0/8 ",
            "10.0.0.0/8,10.1.1.1",
            "10.0.0.0/255.0.0.0",
            "[::1]",
            "fe80::1%eth0",
            "::1/129",
            "10.0.0.1:80",
            "/8",
        ] {
            assert_eq!(parsed::<Networks>(&[bad]), Err((Some(0), AttributeRule::Network)), "{bad:?}");
        }
        for (bad, written) in [("10.0.0.1/8", "10.0.0.0/8"), ("2001:db8::1/32", "2001:db8::/32")] {
            let rule = AttributeRule::HostBits(written.parse().unwrap());
            assert_eq!(parsed::<Networks>(&[bad]), Err((Some(0), rule)), "{bad}");
        }
        for bad in ["::ffff:10.0.0.0/104", "::ffff:10.0.0.1", "::ffff:0:0/96", "::ffff:a00:1/0"] {
            assert_eq!(parsed::<Networks>(&[bad]), Err((Some(0), AttributeRule::MappedIpv4)), "{bad}");
        }
        for bad in ["0.0.0.0/0", "::/0", "192.0.2.1/0"] {
            assert_eq!(parsed::<Networks>(&[bad]), Err((Some(0), AttributeRule::NotEverything)), "{bad}");
        }
        assert_eq!(parsed::<Networks>(&["192.0.2.7", "192.0.2.7/32"]), Err((Some(1), AttributeRule::Unique)));
        assert_eq!(parsed::<Networks>(&[]), Err((None, AttributeRule::NotEmpty)));
        let many: Vec<String> = (0..17).map(|number| format!("192.0.2.{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(parsed::<Networks>(&many[..16]).is_ok());
        assert_eq!(parsed::<Networks>(&many), Err((None, AttributeRule::MaxEntries(16))));
    }

    #[test]
    fn an_address_is_in_a_network_in_either_form_and_an_unknown_one_in_none() {
        let networks = Networks::parse(["10.0.0.0/8", "2001:db8::/32"].into_iter()).unwrap();
        let allows = |text: &str| networks.allow(|| Some(text.parse().unwrap()));
        assert!(allows("10.255.0.1") && allows("::ffff:10.0.0.1") && allows("2001:db8::1"));
        assert!(!allows("11.0.0.1") && !allows("2001:db9::1") && !allows("::10.0.0.1"));
        assert!(!networks.allow(|| None));
        assert!(Networks::default().allow(|| unreachable!("without networks, no address is looked up")));
    }

    #[test]
    fn no_attributes_take_no_memory() {
        let none = SharedAttributes::from(Attributes::default());
        assert_eq!((&*none, none.0.is_none(), none.heap_bytes()), (&Attributes::default(), true, 0));
        assert_eq!(size_of::<SharedAttributes>(), size_of::<usize>());
        let some = Attributes { scopes: Scopes::parse(["a"].into_iter()).unwrap(), ..Attributes::default() };
        let shared = SharedAttributes::from(some.clone());
        assert_eq!(*shared, some);
        assert!(shared.heap_bytes() > size_of::<Attributes>());
    }
}
