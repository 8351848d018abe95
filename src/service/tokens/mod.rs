//! Issue, inspect, list, rotate, revoke and verify tokens.

pub use self::{
    issue::{IssueError, IssuedToken, RotateError, TooLong},
    use_cases::Tokens,
    verify::{AcceptError, VerifyError},
};

mod issue;
mod revoke;
mod use_cases;
mod verify;
