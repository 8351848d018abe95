//! The address of the client that sent a request: that of the peer, or one that trusted proxies report.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::OnceLock,
};

use ipnet::{IpNet, Ipv4Net};
use poem::{
    Request,
    http::{HeaderMap, HeaderName, HeaderValue, header, uri::Scheme},
};

use crate::domain::throttle::ClientNetwork;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The proxies that are trusted to report the address of the client; usually load balancers.
///
/// Each proxy appends the address of its peer. So addresses are read from the last to the first, until one is not
/// trusted: that one is the client. An unreadable address ends the walk at the last proxy before it.
///
/// A proxy sets either `X-Forwarded-For` or `Forwarded` (RFC 7239), and passes on what the client wrote into the other.
/// If a request has both, they must agree, or neither is used.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    /// The header in which they name the user; `None`: they log nobody in.
    user_header: Option<HeaderName>,
    /// Set once the log says that an untrusted peer reports clients.
    warned: OnceLock<()>,
    /// Set once the log says that an untrusted peer names a user.
    warned_of_user: OnceLock<()>,
}

/// The address of the client, as data of a request. `envelope` adds it to all requests but verifications.
#[derive(Clone, Copy)]
pub(super) struct ClientAddress(pub(super) IpAddr);

/// The text is not a list of addresses and networks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor a network such as 10.0.0.0/8")]
pub struct TrustedProxiesError(String);

impl FromStr for TrustedProxies {
    type Err = TrustedProxiesError;

    /// Parses addresses and networks (CIDR) between commas. IPv4 may be written as IPv6: `::ffff:10.0.0.0/104`.
    fn from_str(text: &str) -> Result<Self, TrustedProxiesError> {
        // Not ipnet's own parser: it reads 010.0.0.0/8 as 10.0.0.0/8, where others read 8.0.0.0/8.
        let read = |text: &str| match text.split_once('/') {
            Some((address, length)) => IpNet::new(address.parse().ok()?, length.parse().ok()?).ok(),
            None => text.parse().ok().map(|address: IpAddr| address.into()),
        };
        let network = |text: &str| read(text).map(canonical).ok_or_else(|| TrustedProxiesError(text.to_owned()));
        let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
        Ok(Self { networks: texts.map(network).collect::<Result<_, _>>()?, ..Self::default() })
    }
}

impl TrustedProxies {
    /// Believes the proxies in this header, too, in which they name the user that they have logged in. An error if
    /// there are none, or if every host is one.
    pub fn with_user_header(self, header: HeaderName) -> Result<Self, &'static str> {
        if self.networks.is_empty() {
            return Err("goes with MAYFLY_TRUSTED_PROXIES, which names the proxies that are believed");
        }
        if self.networks.iter().any(|network| network.prefix_len() == 0) {
            return Err("MAYFLY_TRUSTED_PROXIES trusts every host: anybody could log in as any user");
        }
        Ok(Self { user_header: Some(header), ..self })
    }

    /// Returns the name and all values of the header in which a trusted proxy names the user; `None`: no such header is
    /// configured, or the peer is no trusted proxy.
    pub(super) fn user_headers<'r>(&self, request: &'r Request) -> Option<(&HeaderName, Vec<&'r HeaderValue>)> {
        let header = self.user_header.as_ref()?;
        let peer = request.remote_addr().as_socket_addr()?.ip().to_canonical();
        let values: Vec<_> = request.headers().get_all(header).iter().collect();
        if !self.trusts(peer) {
            if !values.is_empty() {
                self.warned_of_user.get_or_init(|| {
                    tracing::warn!(
                        %peer,
                        %header,
                        "a peer names a user, and is not believed: if it is your proxy, name it in \
                         MAYFLY_TRUSTED_PROXIES"
                    );
                });
            }
            return None;
        }
        Some((header, values))
    }

    /// Returns the address of the client that sent this request.
    pub(super) fn client_of(&self, request: &Request) -> Option<IpAddr> {
        let peer = request.remote_addr().as_socket_addr()?.ip();
        Some(self.resolve(peer, request.headers()))
    }

    /// Returns the same address, unless it is only that of a trusted proxy which does not say who its client is.
    pub(super) fn known_client_of(&self, request: &Request) -> Option<IpAddr> {
        let peer = request.remote_addr().as_socket_addr()?.ip();
        self.locate(peer, request.headers()).ok()
    }

    /// Returns the network that a peer's connections count to; `None` for trusted proxies, whose connections carry the
    /// requests of many clients.
    pub fn network(&self, peer: IpAddr) -> Option<ClientNetwork> {
        (!self.trusts(peer.to_canonical())).then(|| peer.into())
    }

    /// Returns whether the client uses TLS, with this service or with a trusted proxy that reports it.
    pub(super) fn is_https(&self, request: &Request) -> bool {
        let peer = request.remote_addr().as_socket_addr().map(SocketAddr::ip);
        *request.scheme() == Scheme::HTTPS || peer.is_some_and(|peer| self.reports_https(peer, request.headers()))
    }

    /// Returns whether this peer is a trusted proxy and reports TLS. If both headers occur, they must agree.
    fn reports_https(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        if !self.trusts(peer.to_canonical()) {
            return false;
        }
        let last = |name| headers.get_all(name).iter().next_back()?.to_str().ok()?.rsplit(',').next().map(str::trim);
        let protocols = [last(&X_FORWARDED_PROTO), last(&header::FORWARDED).and_then(|hop| parameter(hop, "proto"))];
        let mut protocols = protocols.into_iter().flatten().peekable();
        protocols.peek().is_some() && protocols.all(|protocol| protocol.eq_ignore_ascii_case("https"))
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Returns the address of the client for a request with these headers from this peer; if it is not known, that of
    /// the last proxy before it.
    pub fn resolve(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        self.locate(peer, headers).unwrap_or_else(|proxy| proxy)
    }

    /// Returns the address of the client for a request with these headers from this peer. An error if it is not known:
    /// the last proxy before it.
    pub fn locate(&self, peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, IpAddr> {
        let peer = peer.to_canonical();
        let reports_client = || [X_FORWARDED_FOR, header::FORWARDED].iter().any(|name| headers.contains_key(name));
        if self.networks.is_empty() && reports_client() {
            self.warned.get_or_init(|| {
                tracing::warn!(
                    %peer,
                    "a peer names others in X-Forwarded-For or Forwarded, and is not believed: if it is your load \
                     balancer, name it in MAYFLY_TRUSTED_PROXIES, or all of its clients are slowed for the failed \
                     logins of one"
                );
            });
        }
        if !self.trusts(peer) {
            return Ok(peer);
        }
        let walk = |name, read| {
            let hops = headers.contains_key(&name).then(|| hops(headers, &name, read));
            hops.map(|hops| self.walk(peer, hops))
        };
        match (walk(X_FORWARDED_FOR, parse_address), walk(header::FORWARDED, forwarded_for)) {
            (Some(client), None) | (None, Some(client)) => client,
            (Some(Ok(one)), Some(Ok(other))) if one == other => Ok(one),
            (Some(Ok(one) | Err(one)), Some(Ok(other) | Err(other))) if one == other => Err(one),
            (_, _) => Err(peer),
        }
    }

    /// Returns the first address that is not trusted, or else the last one. An error at an unreadable one: the address
    /// before it, or `peer`.
    fn walk(&self, peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>) -> Result<IpAddr, IpAddr> {
        let mut client = peer;
        for hop in hops {
            client = hop.ok_or(client)?;
            if !self.trusts(client) {
                break;
            }
        }
        Ok(client)
    }
}

/// Returns the IPv4 network that is written as an IPv6 one (`::ffff:10.0.0.0/104`), or the network as it is. Clients'
/// addresses are compared in the same form.
fn canonical(network: IpNet) -> IpNet {
    let mapped = |network: IpNet| {
        let IpNet::V6(network) = network else { return None };
        Ipv4Net::new(network.addr().to_ipv4_mapped()?, network.prefix_len().checked_sub(96)?).ok()
    };
    mapped(network).map_or(network, IpNet::V4)
}

/// Returns the addresses in a header, last first; `None` for one that is unreadable.
fn hops(
    headers: &HeaderMap,
    name: &HeaderName,
    read: fn(&str) -> Option<IpAddr>,
) -> impl Iterator<Item = Option<IpAddr>> {
    let lines = headers.get_all(name).iter().rev().map(|line| line.to_str().unwrap_or("not ASCII"));
    lines.flat_map(|line| line.rsplit(',')).map(move |hop| read(hop.trim()))
}

/// Parses an address, with or without a port.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    bare.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

/// Parses the address in an element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    parse_address(parameter(element, "for")?)
}

/// Returns a parameter of an element of `Forwarded`: `for=192.0.2.1;proto=https` or `for="[2001:db8::1]:8080"`.
///
/// Another parameter, such as `host`, may quote a client's text that contains a comma. Splitting at commas then leaves
/// an element with a single quote, of which nothing is used.
fn parameter<'a>(element: &'a str, parameter: &str) -> Option<&'a str> {
    let mut found = None;
    for pair in element.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        let is_second = name.eq_ignore_ascii_case(parameter) && found.replace(value).is_some();
        if value.contains('"') || is_second {
            return None;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &str, peer: &str, headers: &[(&str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        trusted.parse::<TrustedProxies>().unwrap().resolve(peer.parse().unwrap(), &map).to_string()
    }

    #[test]
    fn only_trusted_peers_report_clients() {
        for trusted in ["", "10.0.0.0/8", "10.0.0.1, 2001:db8::/32"] {
            for spoof in [("x-forwarded-for", "198.51.100.1"), ("forwarded", "for=198.51.100.1")] {
                assert_eq!(client(trusted, "192.0.2.1", &[spoof]), "192.0.2.1", "{trusted}");
            }
        }
        assert_eq!(client("10.0.0.0/8", "10.1.2.3", &[]), "10.1.2.3");
        assert_eq!(client("10.0.0.0/8", "10.1.2.3", &[("x-forwarded-for", "192.0.2.1")]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", "10.0.0.1", &[("forwarded", "for=192.0.2.1;proto=https")]), "192.0.2.1");
        assert_eq!(client("fd00::/8", "fd00::1", &[("forwarded", "For=\"[2001:db8::1]:80\"")]), "2001:db8::1");
    }

    #[test]
    fn users_are_named_by_some_hosts_and_not_by_all() {
        let with = |trusted: &str| {
            trusted.parse::<TrustedProxies>().unwrap().with_user_header(HeaderName::from_static("remote-user"))
        };
        assert!(with("10.0.0.1, 192.0.2.0/24").is_ok());
        for trusted in ["", "0.0.0.0/0", "10.0.0.1, ::/0", "::ffff:0.0.0.0/96"] {
            assert!(with(trusted).is_err(), "{trusted:?}");
        }
    }

    #[test]
    fn an_ipv4_network_may_be_written_as_ipv6() {
        let claim = [("x-forwarded-for", "192.0.2.1")];
        for trusted in ["::ffff:10.0.0.0/104", "::ffff:10.1.2.3", "::ffff:0:0/96"] {
            assert_eq!(client(trusted, "10.1.2.3", &claim), "192.0.2.1", "{trusted}");
        }
        for trusted in ["::ffff:10.0.0.0/112", "::ffff:10.1.2.4", "::/0"] {
            assert_eq!(client(trusted, "10.1.2.3", &claim), "10.1.2.3", "{trusted}");
        }
    }

    #[test]
    fn addresses_are_read_from_the_last_until_one_is_not_trusted() {
        let x = |values: &[&str]| {
            let headers: Vec<_> = values.iter().map(|value| ("x-forwarded-for", *value)).collect();
            client("10.0.0.0/8, 127.0.0.1", "127.0.0.1", &headers)
        };
        assert_eq!(x(&["198.51.100.1, 192.0.2.1"]), "192.0.2.1");
        assert_eq!(x(&["198.51.100.1, 192.0.2.1, 10.0.0.2,10.0.0.1"]), "192.0.2.1");
        assert_eq!(x(&["198.51.100.1", "192.0.2.1", "10.0.0.2, 10.0.0.1"]), "192.0.2.1");
        assert_eq!(x(&["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
        assert_eq!(x(&["192.0.2.1:4711"]), "192.0.2.1");
        assert_eq!(x(&["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(x(&["::ffff:192.0.2.1"]), "192.0.2.1");
    }

    #[test]
    fn an_unreadable_address_ends_the_walk_at_the_proxy_before_it() {
        for malformed in
            ["", "unknown", "192.0.2.1, ", "192.0.2.1, x", "192.0.2.1, 300.1.1.1", "192.0.2.1, 10.0.0.1:x", "ü"]
        {
            assert_eq!(client("127.0.0.1", "127.0.0.1", &[("x-forwarded-for", malformed)]), "127.0.0.1", "{malformed}");
        }
        let deeper = [("x-forwarded-for", "192.0.2.1, nonsense, 10.0.0.1")];
        assert_eq!(client("127.0.0.1, 10.0.0.0/8", "127.0.0.1", &deeper), "10.0.0.1");
        for malformed in
            ["for=_hidden", "for=unknown", "by=192.0.2.1", "for", "for=\"192.0.2.1", "for=192.0.2.1;for=192.0.2.1"]
        {
            assert_eq!(client("127.0.0.1", "127.0.0.1", &[("forwarded", malformed)]), "127.0.0.1", "{malformed}");
        }
    }

    #[test]
    fn text_of_a_client_that_a_proxy_quotes_is_not_an_address() {
        let forwarded = |value: &str| client("127.0.0.1", "127.0.0.1", &[("forwarded", value)]);
        assert_eq!(forwarded("by=127.0.0.1;For=192.0.2.1;host=\"tokens.example:443\";"), "192.0.2.1");
        for quoted in
            ["x,for=198.51.100.1;y=", "x;for=198.51.100.1;y=", "x\\\",for=198.51.100.1;y=\\\"", "for=198.51.100.1,"]
        {
            for line in [
                format!("for=192.0.2.1;host=\"{quoted}\""),
                format!("host=\"{quoted}\";for=192.0.2.1"),
                format!("host=\"{quoted}\""),
            ] {
                assert_eq!(forwarded(&line), "127.0.0.1", "{line}");
            }
        }
        // A quote that the client left open is not closed by what the proxy appends.
        assert_eq!(forwarded("for=\"198.51.100.1, for=192.0.2.1;host=\"a\""), "192.0.2.1");
    }

    #[test]
    fn a_trusted_proxy_reports_https() {
        let https = |peer: &str, headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            "10.0.0.0/8".parse::<TrustedProxies>().unwrap().reports_https(peer.parse().unwrap(), &map)
        };
        for headers in [
            &[("x-forwarded-proto", "https")][..],
            &[("x-forwarded-proto", "http, HTTPS")],
            &[("x-forwarded-proto", "http"), ("x-forwarded-proto", "https")],
            &[("forwarded", "for=192.0.2.1;proto=https")],
            &[("forwarded", "proto=http, Proto=\"https\";for=192.0.2.1")],
            &[("x-forwarded-proto", "https"), ("forwarded", "proto=https")],
            &[("x-forwarded-proto", "https"), ("forwarded", "for=192.0.2.1")],
        ] {
            assert!(https("10.0.0.1", headers) && https("::ffff:10.0.0.1", headers), "{headers:?}");
            assert!(!https("192.0.2.1", headers), "{headers:?}");
        }
        for headers in [
            &[][..],
            &[("x-forwarded-proto", "http")],
            &[("x-forwarded-proto", "https, http")],
            &[("x-forwarded-proto", "https"), ("forwarded", "proto=http")],
            &[("forwarded", "for=192.0.2.1")],
            &[("forwarded", "host=\"a;proto=https;b=\"")],
        ] {
            assert!(!https("10.0.0.1", headers), "{headers:?}");
        }
    }

    #[test]
    fn a_client_is_known_if_it_is_the_peer_or_all_proxies_report_it() {
        let known = |trusted: &str, headers: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            trusted.parse::<TrustedProxies>().unwrap().locate("127.0.0.1".parse().unwrap(), &map).is_ok()
        };
        let reported = [("x-forwarded-for", "192.0.2.1")];
        for headers in [&[][..], &reported, &[("x-forwarded-for", "nonsense")]] {
            assert!(known("", headers) && known("10.0.0.0/8", headers), "{headers:?}");
        }
        for headers in [
            &reported[..],
            &[("x-forwarded-for", "192.0.2.1, 127.0.0.1")],
            &[("x-forwarded-for", "127.0.0.1")],
            &[("forwarded", "for=192.0.2.1")],
            &[("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1")],
        ] {
            assert!(known("127.0.0.1", headers), "{headers:?}");
        }
        for headers in [
            &[][..],
            &[("x-forwarded-for", "")],
            &[("x-forwarded-for", "unknown")],
            &[("x-forwarded-for", "192.0.2.1, unknown, 127.0.0.1")],
            &[("forwarded", "for=_hidden")],
            &[("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.2")],
            &[("x-forwarded-for", "127.0.0.1"), ("forwarded", "for=unknown")],
        ] {
            assert!(!known("127.0.0.1", headers), "{headers:?}");
        }
    }

    #[test]
    fn two_headers_must_agree() {
        let both =
            |forwarded| client("127.0.0.1", "127.0.0.1", &[("x-forwarded-for", "192.0.2.1"), ("forwarded", forwarded)]);
        assert_eq!(both("for=192.0.2.1"), "192.0.2.1");
        assert_eq!(both("for=198.51.100.1"), "127.0.0.1");
        assert_eq!(both("nonsense"), "127.0.0.1");
    }

    #[test]
    fn only_addresses_and_networks_are_accepted() {
        for bad in ["x", "10.0.0.0/33", "10.0.0.0/8;10.1.1.1", "localhost", "010.0.0.0/8", "10.0.0.0/", "::1/129"] {
            assert!(bad.parse::<TrustedProxies>().is_err(), "{bad}");
        }
        assert!("".parse::<TrustedProxies>().unwrap().networks.is_empty());
    }
}
