//! The client's address: the one that a trusted proxy names last, whatever a client wrote before it.

use std::net::{IpAddr, SocketAddr};

use mayfly::http::TrustedProxies;
use poem::http::{HeaderMap, HeaderName, HeaderValue, header};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address that the last proxy names.
const CLIENT: &str = "192.0.2.1";

/// A header: its name, and its lines.
type Lines<'a> = (HeaderName, Vec<&'a [u8]>);

/// Reads the input's first line as the list of trusted proxies, the second as the peer, and each other as a header:
/// `Forwarded`, or, behind an `x`, `X-Forwarded-For`.
pub fn check(input: &[u8]) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let Some(Ok(list)) = lines.next().map(str::from_utf8) else { return };
    let networks = networks(list);
    let proxies: Result<TrustedProxies, _> = list.parse();
    assert_eq!(proxies.is_ok(), networks.is_some(), "{list:?}");
    let (Ok(proxies), Some(networks)) = (proxies, networks) else { return };
    let is_trusted = |address: IpAddr| networks.iter().any(|network| contains(*network, address));

    let peer = lines.next().and_then(|line| str::from_utf8(line).ok()?.parse().ok());
    let Some(peer) = peer.or_else(|| networks.first().map(|(base, _)| *base)).map(|peer: IpAddr| peer.to_canonical())
    else {
        return;
    };
    let headers: Vec<_> =
        lines.map(|line| line.strip_prefix(b"x").map_or((false, line), |line| (true, line))).collect();
    let of = |wanted: bool| headers.iter().filter(move |(is_x, _)| *is_x == wanted).map(|(_, line)| *line).collect();
    let (x, forwarded): (Lines, Lines) = ((X_FORWARDED_FOR, of(true)), (header::FORWARDED, of(false)));
    let Some(both) = map([&x, &forwarded]) else { return };

    if !is_trusted(peer) {
        return assert_eq!(proxies.resolve(peer, &both), peer);
    }
    assert_eq!(proxies.resolve(peer, &HeaderMap::new()), peer);
    let one = proxies.resolve(peer, &map([&x]).unwrap());
    let other = proxies.resolve(peer, &map([&forwarded]).unwrap());
    assert_eq!(one, walk(peer, &x.1, is_trusted));
    let expected = if forwarded.1.is_empty() || one == other {
        one
    } else if x.1.is_empty() {
        other
    } else {
        peer
    };
    assert_eq!(proxies.resolve(peer, &both), expected);

    let client: IpAddr = CLIENT.parse().unwrap();
    if !is_trusted(client) {
        let forwarded_client = format!("for={CLIENT};proto=https");
        for ((name, lines), named) in [(&x, CLIENT), (&forwarded, &forwarded_client)] {
            named_last(&proxies, peer, client, (name, lines), named);
        }
        let texts: Vec<_> = forwarded.1.iter().filter_map(|line| quoted(line)).collect();
        for text in texts {
            for line in
                [format!("for={CLIENT};host={text}"), format!("host={text};for={CLIENT}"), format!("host={text}")]
            {
                let resolved = proxies.resolve(peer, &map([&(header::FORWARDED, vec![line.as_bytes()])]).unwrap());
                assert!(resolved == client || resolved == peer, "{resolved} in {line}");
            }
        }
    }
}

/// The address that a trusted proxy names last is the client's, in a line of its own or behind a comma.
fn named_last(
    proxies: &TrustedProxies,
    peer: IpAddr,
    client: IpAddr,
    (name, lines): (&HeaderName, &[&[u8]]),
    named: &str,
) {
    let mut apart = lines.to_vec();
    apart.push(named.as_bytes());
    assert_eq!(proxies.resolve(peer, &map([&(name.clone(), apart)]).unwrap()), client);
    let Some((last, before)) = lines.split_last().filter(|(last, _)| is_text(last)) else { return };
    let joined = [last, &b", "[..], named.as_bytes()].concat();
    let mut behind = before.to_vec();
    behind.push(&joined);
    assert_eq!(proxies.resolve(peer, &map([&(name.clone(), behind)]).unwrap()), client);
}

/// A map of these headers; `None` if a line is no valid value.
fn map<'a, 'b: 'a>(headers: impl IntoIterator<Item = &'a Lines<'b>>) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, lines) in headers {
        for line in lines {
            map.append(name, HeaderValue::from_bytes(line).ok()?);
        }
    }
    Some(map)
}

/// Whether a header line is text, and is not ignored.
fn is_text(line: &[u8]) -> bool {
    HeaderValue::from_bytes(line).is_ok_and(|line| line.to_str().is_ok())
}

/// The text of a client as a proxy quotes it (RFC 9110, section 5.6.4).
fn quoted(text: &[u8]) -> Option<String> {
    let text = str::from_utf8(text).ok()?;
    Some(format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"")))
}

/// The networks of a list, each with the length of its prefix; `None` if an item is neither an address nor a network.
fn networks(list: &str) -> Option<Vec<(IpAddr, u32)>> {
    let network = |text: &str| {
        let (base, length) = text.split_once('/').map_or((text, None), |(base, length)| (base, Some(length)));
        let base: IpAddr = base.parse().ok()?;
        let longest = if base.is_ipv4() { 32 } else { 128 };
        let length = length.map_or(Some(longest), |length| length.parse().ok())?;
        (length <= longest).then_some((base, length))
    };
    list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(network).collect()
}

/// Whether a network contains an address. An IPv6 network contains no IPv4 address, unless it is IPv4-mapped.
fn contains((base, length): (IpAddr, u32), address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    };
    let length = if base.is_ipv4() { length + 96 } else { length };
    let is_of_ipv4 = base.to_canonical().is_ipv4() && length >= 96;
    is_of_ipv4 == address.is_ipv4() && (bits(base) ^ bits(address)).leading_zeros() >= length
}

/// The reference: walks the hops from the last to the first, as far as they are trusted.
fn walk(peer: IpAddr, lines: &[&[u8]], is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let hops: Vec<_> =
        lines.iter().flat_map(|line| if is_text(line) { line } else { &b"?"[..] }.split(|c| *c == b',')).collect();
    let mut client = peer;
    for hop in hops.into_iter().rev().map(|hop| str::from_utf8(hop).unwrap().trim()) {
        let in_brackets = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
        let with_port = || hop.parse().ok().map(|address: SocketAddr| address.ip());
        let Some(hop) = hop.parse().ok().or_else(in_brackets).or_else(with_port) else { break };
        client = IpAddr::to_canonical(&hop);
        if !is_trusted(client) {
            break;
        }
    }
    client
}
