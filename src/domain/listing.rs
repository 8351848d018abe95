//! Lists that are read a page at a time.

use super::token::TokenId;

/// Which page of a user's tokens to list. Tokens come newest first, in the order of their creation in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The page begins after this token; `None`: with the newest.
    pub after: Option<TokenId>,
    /// The most tokens on the page; `None`: no limit.
    pub limit: Option<usize>,
}

impl Page {
    /// All tokens.
    pub const ALL: Self = Self { after: None, limit: None };
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    /// The items of the page, in order.
    pub items: Vec<T>,
    /// Whether another page follows.
    pub more: bool,
}
