//! Lists that are read one page at a time.

use super::token::TokenId;

/// A request for one page of a user's tokens. The newest token comes first, by creation in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest {
    /// The page begins after this token; `None`: with the newest.
    pub after: Option<TokenId>,
    /// The most tokens on the page; `None`: no limit.
    pub limit: Option<usize>,
}

impl PageRequest {
    /// A request for all tokens on one page.
    pub const ALL: Self = Self { after: None, limit: None };
}

/// The answer: one page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    /// The items of the page, in order.
    pub items: Vec<T>,
    /// Whether another page follows.
    pub more: bool,
}
