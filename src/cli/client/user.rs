//! `mayfly user` by the API: an administrator lists and changes users.

use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use ureq::http::Method;

use super::api::{Answer, Api, ApiError, printable};
use crate::{
    cli::outcome::{Failure, print},
    domain::{
        password::Password,
        user::{Role, UserName},
    },
};

const USERS: &str = "/api/v1alpha/user";

/// The number of users that are read at once.
const PAGE_SIZE: usize = 500;

/// A change of a user.
pub(in crate::cli) enum Change {
    Add(Role, Password),
    Role(Role),
    Disable,
    Enable,
    Password { new: Password, revoke_tokens: bool },
    Remove,
}

/// A page of the users.
#[derive(Deserialize)]
struct UserList {
    users: Vec<User>,
}

#[derive(Deserialize)]
struct User {
    username: String,
    role: String,
    disabled: bool,
    origin: String,
}

/// The answer to a change that revokes tokens.
#[derive(Deserialize)]
struct Revoked {
    jwt_tokens_deleted: u64,
}

/// Prints each user's name, role, state and origin, separated by tabs.
pub(in crate::cli) fn print_users(api: &Api) -> Result<(), Failure> {
    let mut after = String::new();
    loop {
        let UserList { users } = api.get(&format!("{USERS}?limit={PAGE_SIZE}{after}"))?.parse()?;
        let line = |User { username, role, disabled, origin }: &User| {
            let state = if *disabled { "disabled" } else { "enabled" };
            [username, role, state, origin].map(printable).join("\t") + "\n"
        };
        print(&users.iter().map(line).collect::<String>())?;
        match users.last().filter(|_| users.len() == PAGE_SIZE) {
            Some(last) => after = format!("&after={}", escaped(&last.username)),
            None => return Ok(()),
        }
    }
}

/// A name in a query or path: of its characters, only `+` and `@` are not unreserved (RFC 3986), and `+` would be a
/// space.
fn escaped(name: &str) -> String {
    form_urlencoded::byte_serialize(name.as_bytes()).collect()
}

/// Changes a user, and prints what was changed.
pub(in crate::cli) fn change_user(api: &Api, name: &UserName, change: &Change) -> Result<(), Failure> {
    let path = format!("{USERS}/{}", escaped(name.as_str()));
    let update = |body: Value| api.send(Method::PATCH, &path, Some(&body))?.parse::<User>();
    let report = match change {
        Change::Add(role, password) => {
            let body = json!({"username": name.as_str(), "role": role.as_str(), "password": password.expose_secret()});
            api.send(Method::POST, USERS, Some(&body))?.parse::<User>()?;
            format!("added {role} {name}\n")
        }
        Change::Role(role) => {
            update(json!({"role": role.as_str()}))?;
            format!("made {name} {role}\n")
        }
        Change::Disable => {
            update(json!({"disabled": true}))?;
            format!("disabled {name} and revoked all tokens\n")
        }
        Change::Enable => {
            update(json!({"disabled": false}))?;
            format!("enabled {name}\n")
        }
        Change::Password { new, revoke_tokens } => {
            let body = json!({"password": new.expose_secret(), "revoke_tokens": revoke_tokens});
            let revoked = revoked(&api.send(Method::PUT, &format!("{path}/password"), Some(&body))?)?;
            let tokens = if *revoke_tokens { format!(" and revoked {revoked} tokens") } else { String::new() };
            format!("changed the password of {name}{tokens}\n")
        }
        Change::Remove => {
            let revoked = revoked(&api.delete(&path)?)?;
            format!("removed {name} and revoked {revoked} tokens\n")
        }
    };
    print(&report)
}

fn revoked(answer: &Answer) -> Result<u64, ApiError> {
    answer.parse().map(|Revoked { jwt_tokens_deleted }| jwt_tokens_deleted)
}
