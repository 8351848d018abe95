//! Users: who they are and what they may do.

use std::{fmt, str::FromStr};

use uuid::Uuid;

use super::password::PasswordHash;

/// The name of a user: `[A-Za-z0-9._@+-]{1,64}`, but neither `.` nor `..`. It can therefore stand in a Redis key, between
/// the braces of a hash tag, without being escaped; and in a path, where clients and proxies take those two for
/// directories and ask about somebody else.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserName(String);

/// A text is no [`UserName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a user name is 1 to {} of the characters A-Z a-z 0-9 . _ @ + -, but neither \".\" nor \"..\"",
    UserName::MAX_CHARS
)]
pub struct UserNameError;

impl UserName {
    /// The most characters in one.
    pub const MAX_CHARS: usize = 64;

    /// What can be one, as a regular expression of ECMA-262 for the OpenAPI document.
    pub const PATTERN: &str = r"^(?!\.{1,2}$)[A-Za-z0-9._@+-]{1,64}$";

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = UserNameError;

    fn from_str(text: &str) -> Result<Self, UserNameError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._@+-".contains(c);
        let is_directory = [".", ".."].contains(&text);
        if (1..=Self::MAX_CHARS).contains(&text.len()) && text.chars().all(allowed) && !is_directory {
            Ok(Self(text.to_owned()))
        } else {
            Err(UserNameError)
        }
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a user may do beyond managing the own tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Nothing more.
    User,
    /// Introspect other users' tokens, as a service does that is given them.
    Introspector,
    /// Manage users and other users' tokens.
    Admin,
}

impl Role {
    /// Whether it may ask about tokens that are not the own ones.
    pub fn may_introspect(self) -> bool {
        matches!(self, Self::Introspector | Self::Admin)
    }

    /// Whether it may manage users and their tokens.
    pub fn may_administer(self) -> bool {
        matches!(self, Self::Admin)
    }
}

/// A text is no [`Role`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is \"user\", \"introspector\" or \"admin\"")]
pub struct RoleError;

impl Role {
    /// The word for it in the API, the CLI and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Introspector => "introspector",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        [Self::User, Self::Introspector, Self::Admin].into_iter().find(|role| role.as_str() == text).ok_or(RoleError)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which logins of a user still count: those since the password was last changed, or the user kept out. A random value,
/// compared and never put in an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LoginEpoch(Uuid);

/// A text is no [`LoginEpoch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an epoch of logins")]
pub struct LoginEpochError;

impl LoginEpoch {
    /// That of a user who was written before there were epochs.
    pub const NONE: Self = Self(Uuid::nil());

    /// Another one than all that there were.
    pub fn begin() -> Self {
        Self(Uuid::new_v4())
    }
}

impl FromStr for LoginEpoch {
    type Err = LoginEpochError;

    fn from_str(text: &str) -> Result<Self, LoginEpochError> {
        Uuid::try_parse(text).map(Self).map_err(|_| LoginEpochError)
    }
}

impl fmt::Display for LoginEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// A user, with the hash of the password.
#[derive(Debug, Clone)]
pub struct User {
    /// The name, unique and unchangeable.
    pub name: UserName,
    /// What the password must verify against.
    pub password_hash: PasswordHash,
    /// What the user may do.
    pub role: Role,
    /// When the user was created, in seconds since the epoch.
    pub created_at: u64,
    /// A disabled user cannot log in and gets no tokens.
    pub disabled: bool,
    /// What a login must have seen for anything to be done on the strength of it.
    pub login_epoch: LoginEpoch,
}

impl User {
    /// Whether this is an administrator who can log in.
    pub fn administers(&self) -> bool {
        self.role.may_administer() && !self.disabled
    }
}

/// What is to be different about a user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserUpdate {
    /// What the user may do from now on; `None`: as before.
    pub role: Option<Role>,
    /// Whether the user is kept out from now on; `None`: as before.
    pub disabled: Option<bool>,
}

impl UserUpdate {
    /// Whether it takes the power of an administrator away from whoever has it.
    pub fn ends_administration(self) -> bool {
        self.disabled == Some(true) || self.role.is_some_and(|role| !role.may_administer())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_in_a_key_and_in_a_path() {
        for good in ["alice", "a", "bob.smith+ci@example.org", "A_1-2", "...", ".a", "..a", &"x".repeat(64)] {
            assert_eq!(good.parse::<UserName>().unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a:b", "a{b}", "a*", "ü", "a\n", ".", "..", &"x".repeat(65)] {
            assert_eq!(bad.parse::<UserName>(), Err(UserNameError), "{bad:?}");
        }
    }
}
