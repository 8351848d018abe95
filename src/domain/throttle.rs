//! How often somebody may try passwords.
//!
//! Failures are counted: those of a client at a user ([`AT_CLIENT`]), those of all clients at a user ([`OF_USER`]), those
//! of a client at all users ([`OF_CLIENT`]), and those of its [`ClientSite`] ([`OF_SITE`]). After some that cost nothing,
//! each count asks for a delay, which grows with it:
//! - between two tries of one client at one user, for as long as its own failures there ask, or those of all clients;
//! - between any two tries of one client, or one site, for as long as its failures at all users ask.
//!
//! Nobody can lock a user out. What others do to a user makes a client wait after tries of its own, never before the first;
//! and where the user logged in lately ([`KNOWN`]), only the failures of that client at that user count. What remains is an
//! attacker at the user's own address, whom nothing tells apart from the user: both wait there. Those behind one NAT, or in
//! one site, wait for each other where many logins failed there, unless they are known there.
//!
//! A user with another password (another [`LoginEpoch`](super::user::LoginEpoch)) has no failures yet, whoever failed
//! before; the client and the site keep theirs.
//!
//! A failure is forgotten the sooner, the fewer there were ([`Allowance::memory`]): those who come once from each of many
//! addresses do not fill the store. A store that has no memory for another count weighs those that it has, and each replica
//! counts for itself what comes ([`CountedAs::StrangerHere`]).
//!
//! So an attacker with n addresses has n tries at a user, and then n in each [`Allowance::longest`]; one with a single
//! address has, at all users together, little more than [`OF_CLIENT`]'s free ones and then one in the same time. Names that
//! nobody has are counted as all others are, so that no delay tells which exist. Who presents a token is never kept waiting:
//! tokens cannot be guessed.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use super::user::UserName;

/// Who tries, as far as an address tells: an IPv4 address, or the /64 of an IPv6 address, all of which is one customer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientNetwork(IpAddr);

impl From<IpAddr> for ClientNetwork {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl ClientNetwork {
    /// The site of an IPv6 network; an IPv4 address has none.
    pub fn site(self) -> Option<ClientSite> {
        match self.0 {
            IpAddr::V6(address) => Some(ClientSite(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 80)))),
            IpAddr::V4(_) => None,
        }
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The /48 of an IPv6 address: the most that one site is given (RFC 6177), with 65,536 networks, each of them a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientSite(Ipv6Addr);

impl fmt::Display for ClientSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A try to log in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LoginAttempt {
    /// As whom, whether there is such a user or not.
    pub user: UserName,
    /// From where.
    pub client: ClientNetwork,
}

/// Whether a password may be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Yes: the try is counted as a failure until it turns out to be none.
    Admitted(CountedAs),
    /// Not yet, but after this time. Nothing was counted.
    TooEarly(Duration),
}

/// As whose failure a try was counted, which is how it is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedAs {
    /// That of a client at which the user is not known: with all counts.
    Stranger,
    /// That of a client at which the user is known: with those of the client at the user alone. The others are not asked
    /// there, and what was counted and taken back with each login would keep them for ever.
    Known,
    /// That of a stranger, but by this replica alone: the store weighed what it knows and has no memory for more.
    StrangerHere,
}

/// What so many failures cost.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// So many cost nothing.
    pub free: u32,
    /// The delay after these.
    pub first: Duration,
    /// It doubles with each such number of further failures.
    pub step: u32,
    /// But grows no longer than this.
    pub longest: Duration,
}

/// For the failures of one client at one user. More are free than there are replicas: each lets a right password through
/// that came to all of them at once, and counts it until it is hashed.
pub const AT_CLIENT: Allowance =
    Allowance { free: 12, first: Duration::from_secs(4), step: 1, longest: Duration::from_mins(1) };

/// For the failures of everybody at one user.
pub const OF_USER: Allowance =
    Allowance { free: 20, first: Duration::from_secs(4), step: 5, longest: Duration::from_mins(1) };

/// For the failures of one client at everybody. Many people may share its address.
pub const OF_CLIENT: Allowance =
    Allowance { free: 100, first: Duration::from_secs(2), step: 20, longest: Duration::from_mins(1) };

/// For the failures of one site at everybody: as for four of its clients.
pub const OF_SITE: Allowance =
    Allowance { free: 400, first: Duration::from_secs(2), step: 80, longest: Duration::from_mins(1) };

/// A count that did not grow for so long is forgotten, whatever it is. Longer than any delay.
pub const FORGOTTEN_AFTER: Duration = Duration::from_mins(15);

/// For how long a user is known at a client after a login there.
pub const KNOWN: Duration = Duration::from_hours(7 * 24);

impl Allowance {
    /// How long so many failures are remembered after the last: the same share of [`FORGOTTEN_AFTER`] as they are of the
    /// free ones. Whoever fails, and waits to be forgotten, has the free ones once in that time, however they are spread;
    /// and each failure takes memory for no longer than its own share.
    pub fn memory(&self, failures: u32) -> Duration {
        FORGOTTEN_AFTER * failures.min(self.free) / self.free
    }

    /// How long to wait after so many failures.
    pub fn delay(&self, failures: u32) -> Duration {
        match failures.checked_sub(self.free) {
            None => Duration::ZERO,
            // No delay doubles more than thirty times.
            Some(more) => (self.first * (1 << (more / self.step).min(30))).min(self.longest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_from_none_to_the_longest() {
        let seconds = |allowance: Allowance, failures: &[u32]| -> Vec<u64> {
            failures.iter().map(|failures| allowance.delay(*failures).as_secs()).collect()
        };
        assert_eq!(seconds(AT_CLIENT, &[0, 11, 12, 13, 14, 15, 16, u32::MAX]), [0, 0, 4, 8, 16, 32, 60, 60]);
        assert_eq!(seconds(OF_CLIENT, &[99, 100, 119, 120, 180, 200, u32::MAX]), [0, 2, 2, 4, 32, 60, 60]);
        for allowance in [AT_CLIENT, OF_USER, OF_CLIENT, OF_SITE] {
            assert!(allowance.longest < FORGOTTEN_AFTER);
        }
    }

    #[test]
    fn a_failure_is_remembered_for_its_share() {
        let seconds = |failures: &[u32]| -> Vec<u64> {
            failures.iter().map(|failures| AT_CLIENT.memory(*failures).as_secs()).collect()
        };
        assert_eq!(seconds(&[0, 1, 2, 11, 12, 13, u32::MAX]), [0, 75, 150, 825, 900, 900, 900]);
        // The last try of a client is what delays for the failures of others are counted from.
        assert!(AT_CLIENT.memory(1) > OF_USER.longest);
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        let network = |text: &str| ClientNetwork::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(network("192.0.2.1").to_string(), "192.0.2.1");
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_eq!(network("2001:db8:1:2:3:4:5:6").to_string(), "2001:db8:1:2::");
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));

        let site = |text: &str| network(text).site();
        assert_eq!(site("192.0.2.1"), None);
        assert_eq!(site("2001:db8:1:2::1").unwrap().to_string(), "2001:db8:1::");
        assert_eq!(site("2001:db8:1:2::1"), site("2001:db8:1:ffff::1"));
        assert_ne!(site("2001:db8:1:2::1"), site("2001:db8:2:2::1"));
    }
}
