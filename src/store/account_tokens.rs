//! The tokens of one user in the embedded store. No operation on one token costs more the more tokens there are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use tokio::time::Instant;

use super::{InspectedToken, LiveToken, Token, TokenId, TokenUse};

/// The most expired tokens that one operation drops.
const MAX_DROPPED: usize = 100;

/// The tokens of one user. It may hold tokens that have expired.
#[derive(Debug, Default)]
pub(super) struct AccountTokens {
    /// By number, in the order of creation.
    tokens: BTreeMap<u64, StoredToken>,
    numbers: HashMap<TokenId, u64>,
    expiries: BTreeSet<(Instant, u64)>,
    next_number: u64,
}

#[derive(Debug)]
struct StoredToken {
    token: Token,
    expires_at: Instant,
    /// In seconds since 1970.
    last_used: Option<u64>,
}

impl StoredToken {
    /// The token, unless it has expired by `now`.
    fn if_live(&self, now: Instant) -> Option<LiveToken> {
        let remaining = self.expires_at.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some(LiveToken { token: self.token.clone(), remaining })
    }

    /// The token with its last use, unless it has expired by `now`.
    fn inspect(&self, now: Instant) -> Option<InspectedToken> {
        Some(self.if_live(now)?.with_use(self.last_used))
    }
}

impl AccountTokens {
    /// Whether there are fewer live tokens than this quota. Drops expired ones: if any has expired, so many that there
    /// is room, since there were never more than the quota.
    pub(super) fn has_room(&mut self, quota: usize, now: Instant) -> bool {
        for _ in 0..MAX_DROPPED {
            match self.expiries.first() {
                Some((expires_at, number)) if *expires_at <= now => drop(self.remove(*number)),
                _ => break,
            }
        }
        self.tokens.len() < quota
    }

    /// Adds a token whose life begins at `now`.
    pub(super) fn insert(&mut self, token: &Token, now: Instant) {
        let (number, expires_at) = (self.next_number, now + token.life.duration());
        self.next_number += 1;
        self.numbers.insert(token.id, number);
        self.expiries.insert((expires_at, number));
        self.tokens.insert(number, StoredToken { token: token.clone(), expires_at, last_used: None });
    }

    /// The live token with this id.
    pub(super) fn find(&self, id: TokenId, now: Instant) -> Option<LiveToken> {
        self.tokens.get(self.numbers.get(&id)?)?.if_live(now)
    }

    /// The live token with this id, with its last use.
    pub(super) fn inspect(&self, id: TokenId, now: Instant) -> Option<InspectedToken> {
        self.tokens.get(self.numbers.get(&id)?)?.inspect(now)
    }

    /// Records a use of a token, unless a later one is recorded.
    pub(super) fn record_use(&mut self, TokenUse { id, at }: TokenUse) {
        if let Some(stored) = self.numbers.get(&id).and_then(|number| self.tokens.get_mut(number)) {
            stored.last_used = stored.last_used.max(Some(at));
        }
    }

    /// At most `count` tokens that are older than the one with this number, newest first, with their numbers. `None`:
    /// the token has expired.
    pub(super) fn older_than(
        &self,
        number: u64,
        count: usize,
        now: Instant,
    ) -> impl Iterator<Item = (u64, Option<InspectedToken>)> {
        self.tokens.range(..number).rev().take(count).map(move |(number, stored)| (*number, stored.inspect(now)))
    }

    /// The number of the live token with this id.
    pub(super) fn number(&self, id: TokenId, now: Instant) -> Option<u64> {
        self.find(id, now).and_then(|_| self.numbers.get(&id).copied())
    }

    /// Removes the token with this id, and returns whether it was live.
    pub(super) fn revoke(&mut self, id: TokenId, now: Instant) -> bool {
        let number = self.numbers.get(&id).copied();
        number.and_then(|number| self.remove(number)).is_some_and(|stored| stored.expires_at > now)
    }

    /// The ids of all tokens.
    pub(super) fn ids(&self) -> impl Iterator<Item = TokenId> {
        self.numbers.keys().copied()
    }

    /// Removes all tokens, and returns how many were live.
    pub(super) fn revoke_all(&mut self, now: Instant) -> u64 {
        let revoked = self.expiries.iter().rev().take_while(|(expires_at, _)| *expires_at > now).map(|_| 1).sum();
        (self.tokens, self.numbers, self.expiries) = Default::default();
        revoked
    }

    /// Gives a token a successor, and shortens its life to this time from now.
    pub(super) fn replace(&mut self, id: TokenId, successor: TokenId, overlap: Duration, now: Instant) {
        let Some(number) = self.numbers.get(&id) else { return };
        let Some(stored) = self.tokens.get_mut(number) else { return };
        self.expiries.remove(&(stored.expires_at, *number));
        stored.token.successor = Some(successor);
        stored.expires_at = stored.expires_at.min(now + overlap);
        self.expiries.insert((stored.expires_at, *number));
    }

    fn remove(&mut self, number: u64) -> Option<StoredToken> {
        let stored = self.tokens.remove(&number)?;
        self.numbers.remove(&stored.token.id);
        self.expiries.remove(&(stored.expires_at, number));
        Some(stored)
    }
}
