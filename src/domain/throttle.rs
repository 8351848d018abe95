//! How often passwords may be tried.
//!
//! Failed logins are counted for each pair of client and user ([`PER_CLIENT_AND_USER`]), each user ([`PER_USER`]), each
//! client ([`PER_CLIENT`]) and each site, a network of clients ([`PER_SITE`]). The first few failures of a counter
//! delay nothing; further ones ask for a delay that grows with their number ([`CounterRule`]):
//! - between two attempts of one client at one user: the longer of the delays of that pair and of that user;
//! - between any two attempts of one client, or of one site: the delay of that client or site.
//!
//! No user can be locked out. Failures of other clients at the user delay a client only after an attempt of its own,
//! never before the first; and a known client, from which the user logged in lately ([`KNOWN_CLIENT_TTL`]), is delayed
//! by the failures of its pair only. An attacker at the user's own address cannot be told from the user: both wait.
//! Clients behind one NAT, or in one site, wait for each other after many failures there, unless they are known.
//!
//! A new password (a new [`LoginEpoch`](super::user::LoginEpoch)) starts the counters of the user and of the user's
//! pairs at zero; those of the client and of the site stay.
//!
//! The fewer failures a counter has, the sooner it expires ([`CounterRule::retention`]), so that single attempts from
//! many addresses do not fill the store. A store without memory for further counters still applies those that it has,
//! and each replica counts new failures in its own memory ([`AttemptScope::ThisReplica`]).
//!
//! The store computes the remaining delay (`reserve_attempt.lua` in Redis, `store/throttle.rs` in memory), and
//! `http/auth.rs` answers it as `Retry-After`.
//!
//! So an attacker with n addresses has n attempts at a user, and then n in each [`MAX_DELAY`]. An attacker with a
//! single address has, for all users together, little more than the free failures of [`PER_CLIENT`], and then one
//! attempt in each [`MAX_DELAY`]. Unknown names are counted like known ones, so that no delay tells which users exist.
//! Tokens are not throttled: they cannot be guessed.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use derive_more::Display;
use ipnet::Ipv6Net;

use super::user::UserName;

/// A client, as far as its address identifies it: an IPv4 address, or the /64 network of an IPv6 address, as one
/// customer has at least that network.
#[derive(Debug, Display, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientNetwork(IpAddr);

impl From<IpAddr> for ClientNetwork {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Net::new_assert(address, 64).network().into(),
            address @ IpAddr::V4(_) => address,
        })
    }
}

impl ClientNetwork {
    /// The site of an IPv6 client: the address of its /48 network. A customer's site is assigned at most a /48 (RFC
    /// 6177): 65,536 networks of /64, each of which is a client here. An IPv4 address has no site.
    pub fn site(self) -> Option<Ipv6Addr> {
        match self.0 {
            IpAddr::V6(address) => Some(Ipv6Net::new_assert(address, 48).network()),
            IpAddr::V4(_) => None,
        }
    }
}

/// A client and the user as whom it tries to log in: the source of a login attempt, without the password.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientAndUser {
    /// The name of the user, whether or not the user exists.
    pub user: UserName,
    /// The client that the login comes from.
    pub client: ClientNetwork,
}

/// Whether the password of a login attempt may be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reservation {
    /// Yes: the attempt is counted as a failure until it succeeds.
    Reserved(AttemptScope),
    /// No: it may be repeated after this time. Nothing was counted.
    RetryAfter(Duration),
}

/// The counters that an attempt was counted in, and that it is removed from when it succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptScope {
    /// The counters of the pair, the user, the client and the site.
    AllCounters,
    /// The counter of the pair alone, since the user logged in from this client lately. The other counters do not delay
    /// a known client, and counting and removing each of its logins in them would keep them from expiring.
    KnownClient,
    /// The counters of the pair, the user, the client and the site, in the memory of this replica: the store has no
    /// memory for more counters.
    ThisReplica,
}

/// The delays and the retention of one counter of failures.
#[derive(Debug, Clone, Copy)]
pub struct CounterRule {
    /// The number of failures without a delay.
    pub free_failures: u32,
    /// The delay after the free failures.
    pub first_delay: Duration,
    /// The number of further failures that doubles the delay, up to [`MAX_DELAY`].
    pub failures_per_doubling: u32,
}

/// For the failures of one client at one user. More failures are free than there are replicas: if the same right
/// password reaches all replicas at once, each counts it as a failure until it is hashed.
pub const PER_CLIENT_AND_USER: CounterRule =
    CounterRule { free_failures: 12, first_delay: Duration::from_secs(4), failures_per_doubling: 1 };

/// For the failures of all clients at one user.
pub const PER_USER: CounterRule =
    CounterRule { free_failures: 20, first_delay: Duration::from_secs(4), failures_per_doubling: 5 };

/// For the failures of one client at all users. Many people may share its address.
pub const PER_CLIENT: CounterRule =
    CounterRule { free_failures: 100, first_delay: Duration::from_secs(2), failures_per_doubling: 20 };

/// For the failures of one site at all users: as for four of its clients.
pub const PER_SITE: CounterRule =
    CounterRule { free_failures: 400, first_delay: Duration::from_secs(2), failures_per_doubling: 80 };

/// The longest delay.
pub const MAX_DELAY: Duration = Duration::from_mins(1);

/// The longest time from the last failure of a counter until the counter expires. Longer than any delay.
pub const MAX_RETENTION: Duration = Duration::from_mins(15);

/// How long a client stays known to a user after a login.
pub const KNOWN_CLIENT_TTL: Duration = Duration::from_hours(7 * 24);

impl CounterRule {
    /// The time from a counter's last failure until it expires: a share of [`MAX_RETENTION`], in proportion to the free
    /// failures that the counter has used. So each failure uses memory for its own share, and an attacker who waits for
    /// the counter to expire has the free failures once in [`MAX_RETENTION`], however the attempts are spread.
    pub fn retention(&self, failures: u32) -> Duration {
        MAX_RETENTION * failures.min(self.free_failures) / self.free_failures
    }

    /// The delay after this number of failures.
    pub fn delay(&self, failures: u32) -> Duration {
        let Some(beyond) = failures.checked_sub(self.free_failures) else { return Duration::ZERO };
        let doublings = beyond / self.failures_per_doubling;
        self.first_delay.saturating_mul(2_u32.saturating_pow(doublings)).min(MAX_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum() {
        let seconds = |rule: CounterRule, failures: &[u32]| -> Vec<u64> {
            failures.iter().map(|failures| rule.delay(*failures).as_secs()).collect()
        };
        assert_eq!(seconds(PER_CLIENT_AND_USER, &[0, 11, 12, 13, 14, 15, 16, u32::MAX]), [0, 0, 4, 8, 16, 32, 60, 60]);
        assert_eq!(seconds(PER_CLIENT, &[99, 100, 119, 120, 180, 200, u32::MAX]), [0, 2, 2, 4, 32, 60, 60]);
        assert!(MAX_DELAY < MAX_RETENTION);
    }

    #[test]
    fn a_counter_expires_after_its_share_of_the_retention() {
        let seconds = |failures: &[u32]| -> Vec<u64> {
            failures.iter().map(|failures| PER_CLIENT_AND_USER.retention(*failures).as_secs()).collect()
        };
        assert_eq!(seconds(&[0, 1, 2, 11, 12, 13, u32::MAX]), [0, 75, 150, 825, 900, 900, 900]);
        // A delay that the failures of others ask for is counted from the client's own last attempt.
        assert!(PER_CLIENT_AND_USER.retention(1) > MAX_DELAY);
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_slash_64() {
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
