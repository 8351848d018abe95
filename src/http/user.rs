//! `/api/v1alpha/user`: administrators manage users, and all users change their own passwords.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{
    Enum, Object, OpenApi,
    param::{Path, Query},
};
use serde::{Deserialize, Serialize};

use super::{
    auth::{Administrator, BasicUser},
    param::{PageLimit, Param, next_page_link},
    paths::USERS,
    payload::{self, Created, Json, Paged},
    problem::Problem,
    services::Services,
    tags::Tag,
};
use crate::{
    domain::{
        listing::Listing,
        password::Password,
        user::{self, User, UserName, UserUpdate},
    },
    service::{Actor, users::UserError},
};

/// The most users on a page, by default.
const DEFAULT_PAGE_LIMIT: usize = 100;

/// The operations on users.
pub(super) struct UserApi;

/// What a user may do besides managing their own tokens: nothing more (`user`), introspect the tokens of others
/// (`introspector`), or everything (`admin`).
#[derive(Clone, Copy, Default, Serialize, Deserialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename_all = "lowercase", remote = "user::Role")]
pub(super) enum Role {
    #[default]
    User,
    Introspector,
    Admin,
}

/// A request for a new user.
#[derive(Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct UserRequest {
    /// 1 to 64 of the characters `A-Z a-z 0-9 . _ @ + -`, but neither `.` nor `..`
    username: String,
    /// The role of the user; by default `user`.
    #[serde(default)]
    #[oai(default)]
    role: Role,
    /// 1 to 1024 bytes without control characters
    #[oai(validator(min_length = 1, max_length = 1024))]
    password: String,
}

/// Changes to a user. Fields left out stay as they are.
#[derive(Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct UserUpdateRequest {
    /// The new role.
    #[serde(default, deserialize_with = "payload::not_null")]
    role: Option<Role>,
    /// Whether to disable (`true`) or enable (`false`) the user.
    #[serde(default, deserialize_with = "payload::not_null")]
    disabled: Option<bool>,
}

/// A new password.
#[derive(Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct PasswordRequest {
    /// 1 to 1024 bytes without control characters
    #[oai(validator(min_length = 1, max_length = 1024))]
    password: String,
    /// Whether to revoke all tokens of the user, too.
    #[serde(default)]
    #[oai(default)]
    revoke_tokens: bool,
}

/// A user in a list.
#[derive(Serialize, Object)]
struct UserSummary {
    /// The name.
    username: String,
    /// The role.
    role: Role,
    /// Whether the user is disabled: cannot log in, and has no tokens.
    disabled: bool,
    /// When the user was added, in seconds since 1970 (UTC).
    created_at: u64,
    /// How the user logs in: `password`, `proxy` (by the header of a trusted proxy), or `issuer:` and the `iss` of a
    /// trusted issuer.
    origin: String,
}

/// A page of the users.
#[derive(Serialize, Object)]
struct UserList {
    /// `Users exist`, or `No users exist`.
    message: String,
    /// Sorted by name.
    users: Vec<UserSummary>,
}

/// A user.
#[derive(Serialize, Object)]
struct UserDetails {
    /// `User exists`, `User created` or `User changed`.
    message: String,
    #[serde(flatten)]
    #[oai(flatten)]
    user: UserSummary,
}

/// A password was changed.
#[derive(Serialize, Object)]
struct PasswordChanged {
    /// `Password changed`
    message: String,
    /// The number of tokens revoked with it.
    jwt_tokens_deleted: u64,
}

/// A user was removed.
#[derive(Serialize, Object)]
struct UserDeleted {
    /// `User deleted`
    message: String,
    /// The number of tokens revoked with it.
    jwt_tokens_deleted: u64,
}

#[OpenApi(prefix_path = "/api/v1alpha/user", tag = "Tag::Users")]
impl UserApi {
    /// List the users
    ///
    /// Sorted by name, a page at a time.
    #[oai(path = "/", method = "get", operation_id = "listUsers")]
    async fn list(
        &self,
        services: Data<&Arc<Services>>,
        Administrator(_actor): Administrator,
        /// The most users on the page; by default 100.
        limit: Query<Option<Param<PageLimit>>>,
        /// The page begins after this name, which need not exist.
        after: Query<Option<String>>,
    ) -> Result<Paged<UserList>, Problem> {
        let after: Option<UserName> = after.0.map(|name| name.parse()).transpose().map_err(invalid_field("after"))?;
        let limit = limit.0.map(Param::parsed).transpose()?.map_or(DEFAULT_PAGE_LIMIT, |PageLimit(limit)| limit);
        let Listing { items: users, more } = services.users.list(after.as_ref(), limit).await?;
        let link = users.last().filter(|_| more).map(|last| next_page_link(USERS, limit, last.name.as_str()));
        // A page that begins after a name can be empty although users with earlier names exist.
        let message = if users.is_empty() && after.is_none() { "No users exist" } else { "Users exist" };
        let users = users.into_iter().map(UserSummary::from).collect();
        Ok(Paged::Ok(Json(UserList { message: message.into(), users }), link))
    }

    /// Add a user
    #[oai(path = "/", method = "post", operation_id = "addUser")]
    async fn add(
        &self,
        services: Data<&Arc<Services>>,
        Administrator(actor): Administrator,
        request: Json<UserRequest>,
    ) -> Result<Created<UserDetails>, Problem> {
        let Json(UserRequest { username, role, password }) = request;
        let name = username.parse().map_err(invalid_field("username"))?;
        let user = services.users.add(Actor::User(actor), name, role.into(), parse_password(&password)?).await?;
        let location = format!("{USERS}/{}", user.name);
        Ok(Created::Created(Json(UserDetails::new("User created", user)), location))
    }

    /// Get a user
    #[oai(path = "/:name", method = "get", operation_id = "getUser")]
    async fn get(
        &self,
        services: Data<&Arc<Services>>,
        Administrator(_actor): Administrator,
        /// The user's name.
        name: Path<Param<UserName>>,
    ) -> Result<Json<UserDetails>, Problem> {
        let name = name.0.parsed()?;
        let user = services.users.find(&name).await?.ok_or_else(Problem::no_such_user)?;
        Ok(Json(UserDetails::new("User exists", user)))
    }

    /// Change a user's role, disable or enable a user
    ///
    /// Disabling a user revokes all their tokens. After the 200, no replica accepts one of those tokens, a login of the
    /// disabled user, or an administrative request of a former administrator. The last enabled administrator cannot be
    /// disabled or given another role.
    #[oai(path = "/:name", method = "patch", operation_id = "changeUser")]
    async fn change(
        &self,
        services: Data<&Arc<Services>>,
        Administrator(actor): Administrator,
        /// The user's name.
        name: Path<Param<UserName>>,
        request: Json<UserUpdateRequest>,
    ) -> Result<Json<UserDetails>, Problem> {
        let Json(UserUpdateRequest { role, disabled }) = request;
        let update = UserUpdate { role: role.map(user::Role::from), disabled };
        let updated = services.users.update(Actor::User(actor), &name.0.parsed()?, update).await?;
        Ok(Json(UserDetails::new("User changed", updated.user)))
    }

    /// Change a password
    ///
    /// Administrators change any password, other users their own; a user without a password gets none. After the 200,
    /// no replica accepts the old password. Tokens stay valid unless `revoke_tokens` is set; then no replica accepts
    /// any of them again.
    #[oai(path = "/:name/password", method = "put", operation_id = "changePassword")]
    async fn change_password(
        &self,
        services: Data<&Arc<Services>>,
        BasicUser(user): BasicUser,
        /// The user's name.
        name: Path<Param<UserName>>,
        request: Json<PasswordRequest>,
    ) -> Result<Json<PasswordChanged>, Problem> {
        let is_own = name.0.is(&user.name);
        if !is_own && !user.is_administrator() {
            return Err(Problem::administrators_only());
        }
        let Json(PasswordRequest { password, revoke_tokens }) = request;
        let (name, password) = (name.0.parsed()?, parse_password(&password)?);
        let jwt_tokens_deleted = services.users.set_password(Actor::User(user), &name, password, revoke_tokens).await?;
        Ok(Json(PasswordChanged { message: "Password changed".into(), jwt_tokens_deleted }))
    }

    /// Remove a user
    ///
    /// Also revokes all tokens of the user. After the 200, no replica accepts one of them, or a login of the user. The
    /// last enabled administrator cannot be removed.
    #[oai(path = "/:name", method = "delete", operation_id = "removeUser")]
    async fn remove(
        &self,
        services: Data<&Arc<Services>>,
        Administrator(actor): Administrator,
        /// The user's name.
        name: Path<Param<UserName>>,
    ) -> Result<Json<UserDeleted>, Problem> {
        let jwt_tokens_deleted = services.users.remove(Actor::User(actor), &name.0.parsed()?).await?;
        Ok(Json(UserDeleted { message: "User deleted".into(), jwt_tokens_deleted }))
    }
}

/// 400 for a field or parameter that cannot be parsed; the detail begins with its name.
pub(super) fn invalid_field<E: std::error::Error>(what: &'static str) -> impl Fn(E) -> Problem {
    move |error| Problem::bad_request(format!("{what}: {error}."))
}

fn parse_password(text: &str) -> Result<Password, Problem> {
    Password::parse_printable(text).map_err(invalid_field("password"))
}

impl From<User> for UserSummary {
    fn from(User { name, credential, role, created_at, disabled, .. }: User) -> Self {
        Self { username: name.to_string(), role: role.into(), disabled, created_at, origin: credential.to_string() }
    }
}

impl UserDetails {
    fn new(message: &str, user: User) -> Self {
        Self { message: message.into(), user: user.into() }
    }
}

impl From<UserError> for Problem {
    fn from(error: UserError) -> Self {
        match error {
            UserError::NoSuchUser => Self::no_such_user(),
            UserError::NameTaken => Self::conflict("There is a user of this name already."),
            UserError::NoPassword => Self::conflict(
                "This user logs in without a password, and cannot get one. Remove the user and add one of this name.",
            ),
            UserError::LastAdmin => {
                Self::conflict("This is the last enabled administrator. Make another one first, or enable one.")
            }
            UserError::Busy(busy) => busy.into(),
            UserError::Store(error) => error.into(),
        }
    }
}
