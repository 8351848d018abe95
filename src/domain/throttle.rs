//! How often somebody may try passwords.
//!
//! Failures are counted: those of a client at a user ([`AT_CLIENT`]), those of all clients at a user ([`OF_USER`]), and those
//! of a client at all users ([`OF_CLIENT`]). After some that cost nothing, each count asks for a delay, which grows with it:
//! - between two tries of one client at one user, for as long as its own failures there ask, or those of all clients;
//! - between any two tries of one client, for as long as its failures at all users ask.
//!
//! Nobody can lock a user out. What others do to a user makes a client wait after tries of its own, never before the first;
//! and where the user logged in lately ([`KNOWN`]), only the failures of that client at that user count. What remains is an
//! attacker at the user's own address, whom nothing tells apart from the user: both wait there. Those behind one NAT wait
//! for each other where many logins failed there, unless they are known there.
//!
//! A store that has no memory for another count weighs those that it has, and each replica counts for itself what comes
//! ([`CountedAs::StrangerHere`]).
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

impl fmt::Display for ClientNetwork {
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
    /// That of a client at which the user is not known: with all three counts.
    Stranger,
    /// That of a client at which the user is known: with those of the client at the user alone. The two others are not asked
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

/// A count that did not grow for so long is forgotten. Longer than any delay.
pub const FORGOTTEN_AFTER: Duration = Duration::from_mins(15);

/// For how long a user is known at a client after a login there.
pub const KNOWN: Duration = Duration::from_hours(7 * 24);

impl Allowance {
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
        for allowance in [AT_CLIENT, OF_USER, OF_CLIENT] {
            assert!(allowance.longest < FORGOTTEN_AFTER);
        }
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        let network = |text: &str| ClientNetwork::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(network("192.0.2.1").to_string(), "192.0.2.1");
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_eq!(network("2001:db8:1:2:3:4:5:6").to_string(), "2001:db8:1:2::");
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
    }
}
