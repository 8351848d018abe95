//! URLs from which an issuer's keys are fetched.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use url::{Host, Url};

/// A URL of `https`, or of `http` on this machine: anybody on the way could replace keys that are fetched without TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyUrl(Url);

/// Why a text is not a [`KeyUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyUrlError {
    /// It is not an absolute URL with a host.
    #[error("not a URL such as https://issuer.example")]
    Malformed,
    /// It is plain HTTP to another machine, or another scheme.
    #[error("must begin with https:// (http:// is for 127.0.0.1, [::1] and localhost)")]
    NotHttps,
    /// It has a user, a password or a fragment.
    #[error("must have no user, no password and no fragment")]
    Extra,
    /// Its host is an address at which no issuer is: link-local addresses have metadata of clouds.
    #[error("its address is link-local, unspecified or multicast")]
    Address,
}

impl KeyUrl {
    /// The URL as a text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether the host is this machine.
    pub fn is_loopback(&self) -> bool {
        self.0.host().is_some_and(|host| match host {
            Host::Domain(name) => name == LOCALHOST,
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => IpAddr::V6(address).to_canonical().is_loopback(),
        })
    }

    /// The URL of the OpenID configuration of an issuer with this URL (OpenID Connect Discovery 1.0, section 4).
    #[must_use]
    pub fn openid_configuration(&self) -> Self {
        let mut url = self.0.clone();
        url.set_path(&format!("{}/.well-known/openid-configuration", self.0.path().trim_end_matches('/')));
        Self(url)
    }
}

/// The name of this machine.
const LOCALHOST: &str = "localhost";

/// Whether a document may be fetched from this address. `host`: that of the URL, as in `[::1]`. A loopback address is
/// allowed for a URL that names this machine, and for no other: a name of somebody else may resolve to it.
pub fn is_allowed_address(host: &str, address: IpAddr) -> bool {
    let address = address.to_canonical();
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_this_machine = host == LOCALHOST || literal.is_ok_and(|literal| literal.to_canonical().is_loopback());
    if is_this_machine || address.is_loopback() {
        return is_this_machine && address.is_loopback();
    }
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || is_metadata_of_aws(address),
    };
    !(is_link_local || address.is_unspecified() || address.is_multicast())
}

/// Whether this is the address of the metadata of Amazon's machines, which is not link-local.
fn is_metadata_of_aws(address: Ipv6Addr) -> bool {
    address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
}

impl FromStr for KeyUrl {
    type Err = KeyUrlError;

    fn from_str(text: &str) -> Result<Self, KeyUrlError> {
        let url = Self(Url::parse(text).map_err(|_| KeyUrlError::Malformed)?);
        let host = url.0.host_str().ok_or(KeyUrlError::Malformed)?;
        match url.0.scheme() {
            "https" => {}
            "http" if url.is_loopback() => {}
            _ => return Err(KeyUrlError::NotHttps),
        }
        if !url.0.username().is_empty() || url.0.password().is_some() || url.0.fragment().is_some() {
            return Err(KeyUrlError::Extra);
        }
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse();
        match literal {
            Ok(address) if !is_allowed_address(host, address) => Err(KeyUrlError::Address),
            _ => Ok(url),
        }
    }
}

impl fmt::Display for KeyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_https_or_on_this_machine() {
        for good in ["https://issuer.example", "https://10.0.0.1:6443/keys", "http://127.0.0.1:1", "http://[::1]/a"] {
            assert!(good.parse::<KeyUrl>().is_ok(), "{good}");
        }
        for (bad, error) in [
            ("http://issuer.example", KeyUrlError::NotHttps),
            ("http://127.0.0.1.issuer.example", KeyUrlError::NotHttps),
            ("http://10.0.0.1", KeyUrlError::NotHttps),
            ("file:///etc/passwd", KeyUrlError::Malformed),
            ("issuer.example", KeyUrlError::Malformed),
            ("https://", KeyUrlError::Malformed),
            ("https://a:b@issuer.example", KeyUrlError::Extra),
            ("https://a@issuer.example", KeyUrlError::Extra),
            ("https://:b@issuer.example", KeyUrlError::Extra),
            ("https://issuer.example/#keys", KeyUrlError::Extra),
            ("https://169.254.169.254/latest", KeyUrlError::Address),
            ("https://0xa9fea9fe/latest", KeyUrlError::Address),
            ("https://2852039166/latest", KeyUrlError::Address),
            ("https://[::ffff:169.254.169.254]/", KeyUrlError::Address),
            ("https://[fe80::1]/", KeyUrlError::Address),
            ("https://[fd00:ec2::254]/", KeyUrlError::Address),
            ("https://0.0.0.0/", KeyUrlError::Address),
            ("https://[::]/", KeyUrlError::Address),
            ("https://255.255.255.255/", KeyUrlError::Address),
            ("https://224.0.0.1/", KeyUrlError::Address),
            ("https://[ff02::1]/", KeyUrlError::Address),
        ] {
            assert_eq!(bad.parse::<KeyUrl>(), Err(error), "{bad}");
        }
    }

    #[test]
    fn a_name_resolves_to_no_address_of_this_machine_or_of_its_link() {
        for (host, address, allowed) in [
            ("issuer.example", "192.0.2.1", true),
            ("issuer.example", "10.0.0.1", true),
            ("issuer.example", "127.0.0.1", false),
            ("issuer.example", "::ffff:127.0.0.1", false),
            ("issuer.example", "169.254.169.254", false),
            ("issuer.example", "::ffff:169.254.169.254", false),
            ("issuer.example", "fe80::1", false),
            ("issuer.example", "0.0.0.0", false),
            ("localhost", "127.0.0.1", true),
            ("localhost", "192.0.2.1", false),
            ("[::1]", "::1", true),
            ("127.0.0.1", "127.0.0.1", true),
        ] {
            assert_eq!(is_allowed_address(host, address.parse().unwrap()), allowed, "{host} {address}");
        }
    }

    #[test]
    fn the_openid_configuration_is_below_the_issuer() {
        for (issuer, expected) in [
            ("https://issuer.example", "https://issuer.example/.well-known/openid-configuration"),
            ("https://issuer.example/", "https://issuer.example/.well-known/openid-configuration"),
            ("https://issuer.example/a", "https://issuer.example/a/.well-known/openid-configuration"),
        ] {
            assert_eq!(issuer.parse::<KeyUrl>().unwrap().openid_configuration().as_str(), expected);
        }
    }
}
