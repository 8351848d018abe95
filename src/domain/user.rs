//! Users and roles.

use std::str::FromStr;

use derive_more::{Display, FromStr};
use uuid::Uuid;

use super::{origin::Origin, password::PasswordHash};

/// The name of a user: `[A-Za-z0-9._@+-]{1,64}`, but neither `.` nor `..`. So a name needs no escaping between the
/// braces of a Redis key's hash tag, and in a URL's path, clients and proxies do not take it for a directory.
#[derive(Debug, Display, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserName(String);

/// The text is not a [`UserName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a user name is 1 to {} of the characters A-Z a-z 0-9 . _ @ + -, but neither \".\" nor \"..\"",
    UserName::MAX_CHARS
)]
pub struct UserNameError;

impl UserName {
    /// The maximum length, in characters.
    pub const MAX_CHARS: usize = 64;

    /// A regular expression (ECMA-262) for names, for the OpenAPI document.
    pub const PATTERN: &str = r"^(?!\.{1,2}$)[A-Za-z0-9._@+-]{1,64}$";

    /// The name as a text.
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

/// The rights of a user beyond managing their own tokens. Of two roles, the greater one has all rights of the other.
#[derive(Debug, Display, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[display("{}", self.as_str())]
pub enum Role {
    /// Has no further rights.
    User,
    /// May introspect tokens of other users: for a service that receives tokens.
    Introspector,
    /// May also manage users and their tokens.
    Admin,
}

/// The text is not a [`Role`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a role is \"user\", \"introspector\" or \"admin\"")]
pub struct RoleError;

impl Role {
    /// Whether the role may introspect tokens of other users.
    pub fn may_introspect(self) -> bool {
        matches!(self, Self::Introspector | Self::Admin)
    }

    /// Whether the role may manage users and their tokens.
    pub fn may_administer(self) -> bool {
        self == Self::Admin
    }

    /// The name of the role in the API, the command line and the store.
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

/// A random value that a user's valid logins carry. It changes when the user gets a new password or is disabled: then
/// logins of an earlier epoch no longer authorize writes.
#[derive(Debug, Display, FromStr, Clone, Copy, PartialEq, Eq, Hash)]
#[display("{}", _0.simple())]
pub struct LoginEpoch(Uuid);

impl LoginEpoch {
    /// The epoch of a user whose record in the store has none, as it was written by an early version of the service.
    pub const NONE: Self = Self(Uuid::nil());

    /// A new random epoch.
    pub fn begin() -> Self {
        Self(Uuid::new_v4())
    }
}

/// How a user logs in. A user has a password or an origin, never both.
///
/// `Display` writes `password` or the origin.
#[derive(Debug, Display, Clone)]
pub enum Credential {
    /// By a password of ours, which has this hash.
    #[display("password")]
    Password(PasswordHash),
    /// By the word of this party.
    External(Origin),
}

impl From<PasswordHash> for Credential {
    fn from(hash: PasswordHash) -> Self {
        Self::Password(hash)
    }
}

impl From<Origin> for Credential {
    fn from(origin: Origin) -> Self {
        Self::External(origin)
    }
}

/// A user.
#[derive(Debug, Clone)]
pub struct User {
    /// The name, unique and unchangeable.
    pub name: UserName,
    /// How the user logs in.
    pub credential: Credential,
    /// The role.
    pub role: Role,
    /// The time of creation, in seconds since 1970.
    pub created_at: u64,
    /// A disabled user cannot log in and has no tokens.
    pub disabled: bool,
    /// The login epoch that is valid.
    pub login_epoch: LoginEpoch,
}

impl User {
    /// A new user, who is enabled and has a login epoch of their own. `created_at`: in seconds since 1970.
    pub fn new(name: UserName, role: Role, credential: impl Into<Credential>, created_at: u64) -> Self {
        Self {
            name,
            credential: credential.into(),
            role,
            created_at,
            disabled: false,
            login_epoch: LoginEpoch::begin(),
        }
    }

    /// The hash of the password; `None`: the user has none.
    pub fn password_hash(&self) -> Option<&PasswordHash> {
        match &self.credential {
            Credential::Password(hash) => Some(hash),
            Credential::External(_) => None,
        }
    }

    /// The party that says who the user is; `None`: the user has a password.
    pub fn origin(&self) -> Option<&Origin> {
        match &self.credential {
            Credential::Password(_) => None,
            Credential::External(origin) => Some(origin),
        }
    }

    /// Whether the user is an administrator and not disabled.
    pub fn is_enabled_admin(&self) -> bool {
        self.role.may_administer() && !self.disabled
    }
}

/// A change of a user. `None` leaves the user's value as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserUpdate {
    /// The new role.
    pub role: Option<Role>,
    /// Whether the user is disabled from now on.
    pub disabled: Option<bool>,
}

impl UserUpdate {
    /// Whether the user cannot be an enabled administrator after this change.
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
