//! `/api/v1alpha/user`: the users, for administrators, and the own password, for everybody.

use std::sync::Arc;

use poem::web::Data;
use poem_openapi::{
    Enum, Object, OpenApi,
    param::{Path, Query},
};
use serde::{Deserialize, Serialize};

use super::{
    auth::{Administrator, BasicUser},
    param::{Limit, Param, next_page},
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

/// How many users a page has unless the client says so.
const DEFAULT_LIMIT: usize = 100;

/// The operations on users.
pub(super) struct UserApi;

/// What a user may do beyond managing the own tokens: nothing (`user`), ask about others' (`introspector`), or everything
/// (`admin`).
#[derive(Clone, Copy, Default, Serialize, Deserialize, Enum)]
#[serde(rename_all = "lowercase")]
#[oai(rename_all = "lowercase", remote = "user::Role")]
enum Role {
    #[default]
    User,
    Introspector,
    Admin,
}

/// Whom to add: a `user`, unless `role` says otherwise.
#[derive(Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct UserRequest {
    /// 1 to 64 of the characters `A-Z a-z 0-9 . _ @ + -`, but neither `.` nor `..`
    username: String,
    /// What the user may do; `user` unless it says otherwise.
    #[serde(default)]
    #[oai(default)]
    role: Role,
    /// 1 to 1024 bytes without control characters
    #[oai(validator(min_length = 1, max_length = 1024))]
    password: String,
}

/// What to change about a user.
#[derive(Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct UserUpdateRequest {
    /// What the user may do from now on.
    #[serde(default, deserialize_with = "payload::not_null")]
    role: Option<Role>,
    /// Whether the user is kept out from now on.
    #[serde(default, deserialize_with = "payload::not_null")]
    disabled: Option<bool>,
}

/// Another password.
#[derive(Deserialize, Object)]
#[serde(deny_unknown_fields)]
struct PasswordRequest {
    /// 1 to 1024 bytes without control characters
    #[oai(validator(min_length = 1, max_length = 1024))]
    password: String,
    /// Whether to revoke all of the user's tokens, too.
    #[serde(default)]
    #[oai(default)]
    revoke_tokens: bool,
}

/// A user, in a list.
#[derive(Serialize, Object)]
struct UserSummary {
    /// The name.
    username: String,
    /// What the user may do.
    role: Role,
    /// Whether the user is kept out.
    disabled: bool,
    /// When the user was added, in seconds since the epoch.
    created_at: u64,
}

/// Some users.
#[derive(Serialize, Object)]
struct UserList {
    /// `Users exist`, or `No users exist`.
    message: String,
    /// By name.
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

/// A user has another password.
#[derive(Serialize, Object)]
struct PasswordChanged {
    /// `Password changed`
    message: String,
    /// How many tokens were revoked with it.
    jwt_tokens_deleted: u64,
}

/// A user is gone.
#[derive(Serialize, Object)]
struct UserDeleted {
    /// `User deleted`
    message: String,
    /// How many tokens were revoked with it.
    jwt_tokens_deleted: u64,
}

#[OpenApi(prefix_path = "/api/v1alpha/user", tag = "Tag::Users")]
impl UserApi {
    /// List the users
    ///
    /// By name, a page at a time.
    #[oai(path = "/", method = "get", operation_id = "listUsers")]
    async fn list(
        &self,
        services: Data<&Arc<Services>>,
        Administrator(_actor): Administrator,
        /// At most so many; 100 unless it says otherwise.
        limit: Query<Option<Param<Limit>>>,
        /// Begin behind this name, which need not exist.
        after: Query<Option<String>>,
    ) -> Result<Paged<UserList>, Problem> {
        let after: Option<UserName> = after.0.map(|name| name.parse()).transpose().map_err(invalid("after"))?;
        let limit = limit.0.map(Param::parsed).transpose()?.map_or(DEFAULT_LIMIT, |Limit(limit)| limit);
        let Listing { items: users, more } = services.users.list(after.as_ref(), limit).await?;
        let link = users.last().filter(|_| more).map(|last| next_page(USERS, limit, last.name.as_str()));
        // An empty page behind somebody says nothing of those before.
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
        let name = username.parse().map_err(invalid("username"))?;
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
    /// Disabling revokes all of the user's tokens. Once this is answered with 200, no replica accepts one of them again, lets a
    /// disabled user in, or lets a former administrator do what administrators may. The last enabled administrator stays one.
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
    /// An administrator changes anybody's, and everybody the own one. Once this is answered with 200, no replica lets anybody in
    /// with the old one. Tokens live on, unless the body says otherwise; then no replica accepts one of them again.
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
        if !is_own && !user.administers() {
            return Err(Problem::administrators_only());
        }
        let Json(PasswordRequest { password, revoke_tokens }) = request;
        let (name, password) = (name.0.parsed()?, parse_password(&password)?);
        let jwt_tokens_deleted = services.users.set_password(Actor::User(user), &name, password, revoke_tokens).await?;
        Ok(Json(PasswordChanged { message: "Password changed".into(), jwt_tokens_deleted }))
    }

    /// Remove a user
    ///
    /// With all tokens: once this is answered with 200, no replica accepts one of them again, or lets the user in. The last
    /// enabled administrator stays.
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

/// 400 for a field or parameter that cannot be read.
pub(super) fn invalid<E: std::error::Error>(what: &'static str) -> impl Fn(E) -> Problem {
    move |error| Problem::bad_request(format!("{what}: {error}."))
}

fn parse_password(text: &str) -> Result<Password, Problem> {
    Password::parse_new(text).map_err(invalid("password"))
}

impl From<User> for UserSummary {
    fn from(User { name, role, created_at, disabled, .. }: User) -> Self {
        Self { username: name.to_string(), role: role.into(), disabled, created_at }
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
            UserError::LastAdmin => {
                Self::conflict("This is the last enabled administrator. Make another one first, or enable one.")
            }
            UserError::Busy(busy) => busy.into(),
            UserError::Store(error) => error.into(),
        }
    }
}
