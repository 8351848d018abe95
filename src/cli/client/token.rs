//! `mayfly token`: the tokens of a user, by the API.

use std::str::FromStr;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    api::{Answer, Api, ApiError, printable},
    help::CLIENT_HELP,
    login::{log_in, present_token},
    show::{Token, table_of, values_of},
    table::{in_words, is_terminal},
};
use crate::{
    cli::{
        interruptible::{in_thread, until_signal},
        outcome::{Failure, print},
    },
    config::ClientSettings,
    domain::token::TokenId,
};

const TOKENS: &str = "/api/v1alpha/token";
const VERIFY: &str = "/api/v1alpha/verify";

#[derive(Args)]
#[command(after_help = CLIENT_HELP, after_long_help = CLIENT_HELP)]
pub(in crate::cli) struct TokenCommand {
    #[command(flatten)]
    service: ClientSettings,

    /// Print the answer of the service as JSON
    #[arg(long)]
    json: bool,

    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Issue a token, and print its JWT alone: TOKEN=$(mayfly token issue "CI" "1 hour")
    Issue {
        /// What the token is for
        description: String,
        /// How long it lives: "6 hours", 90m, "30 days"
        life: String,
        /// Allow it this scope; repeat the option for more
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// Make it for this service alone; repeat the option for more
        #[arg(long = "audience", value_name = "AUDIENCE")]
        audiences: Vec<String>,
        /// Let it be used from this network or address alone, such as 10.0.0.0/8; repeat the option for more
        #[arg(long = "network", value_name = "NETWORK")]
        networks: Vec<String>,
    },
    /// List your tokens, newest first
    List,
    /// Show a token
    Show {
        /// Its id, or self: the token in --token-file or at standard input
        id: Reference,
    },
    /// Issue a successor of a token, and print its JWT alone
    Rotate {
        /// Its id
        id: TokenId,
        /// Let the old token live on beside its successor for this time, such as "24 hours"
        #[arg(long, value_name = "DURATION")]
        overlap: Option<String>,
    },
    /// Revoke tokens: no replica accepts them again
    Revoke {
        /// Its id, or self: the token in --token-file or at standard input
        id: Option<Reference>,
        /// Revoke all your tokens
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
    /// Verify the token in --token-file, or at standard input
    Verify {
        /// Demand this scope; repeat the option for more
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// Demand this audience
        #[arg(long, value_name = "AUDIENCE")]
        audience: Option<String>,
    },
}

/// Reads an answer, and returns it as it is shown without `--json`.
type Show = fn(&Answer) -> Result<String, ApiError>;

/// A token in an argument.
#[derive(Clone, Copy)]
enum Reference {
    /// The one that is presented.
    Presented,
    Id(TokenId),
}

/// The answer to `issue` and `rotate`.
#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the API's contract has these names")]
struct Issued {
    jwt_token_id: String,
    jwt_token: String,
    jwt_token_life: u64,
}

#[derive(Deserialize)]
struct TokenList {
    jwt_tokens: Map<String, Value>,
}

/// The answer to `revoke`.
#[derive(Deserialize)]
struct Revoked {
    message: String,
    jwt_tokens_deleted: Option<u64>,
}

impl FromStr for Reference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "self" => Ok(Self::Presented),
            id => id.parse().map(Self::Id).map_err(|_| format!("{id:?} is neither the id of a token nor self")),
        }
    }
}

impl Reference {
    fn path(self) -> String {
        match self {
            Self::Presented => format!("{TOKENS}/self"),
            Self::Id(id) => format!("{TOKENS}/{id}"),
        }
    }
}

impl TokenCommand {
    #[tokio::main(flavor = "current_thread")]
    pub(in crate::cli) async fn run(self) -> Result<(), Failure> {
        until_signal(async {
            if let Action::Revoke { id: None, all: false } = self.action {
                let reason = "say what to revoke: the id of a token, self (the token in --token-file or at standard \
                              input), or --all";
                return Err(Failure::Usage(reason.into()));
            }
            let api = if self.action.presents_token() {
                present_token(&self.service).await?
            } else {
                log_in(&self.service).await?
            };
            let (action, json) = (self.action, self.json);
            let text = in_thread(move || action.call(&api, json)).await?;
            print(&text)
        })
        .await
    }
}

impl Action {
    /// Whether the request presents the token that it is about, instead of a login.
    fn presents_token(&self) -> bool {
        match self {
            Self::Show { id } | Self::Revoke { id: Some(id), .. } => matches!(id, Reference::Presented),
            Self::Verify { .. } => true,
            _ => false,
        }
    }

    /// Calls the service, and returns what to print.
    fn call(self, api: &Api, json: bool) -> Result<String, ApiError> {
        let (answer, show): (_, Show) = match self {
            Self::Issue { description, life, scopes, audiences, networks } => {
                let mut body = json!({"jwt_token_description": description, "jwt_token_life": life});
                let attributes = [("scopes", scopes), ("audiences", audiences), ("networks", networks)];
                for (name, entries) in attributes.into_iter().filter(|(_, entries)| !entries.is_empty()) {
                    body[format!("jwt_token_{name}")] = entries.into();
                }
                (api.create(TOKENS, &body)?, show_issued)
            }
            Self::List => (api.get(TOKENS)?, show_list),
            Self::Show { id } => (api.get(&id.path())?, show_token),
            Self::Rotate { id, overlap } => {
                let body = overlap.map_or_else(|| json!({}), |overlap| json!({"overlap": overlap}));
                (api.create(&format!("{TOKENS}/{id}/rotate"), &body)?, show_issued)
            }
            Self::Revoke { id: Some(id), .. } => (api.delete(&id.path())?, show_revoked),
            Self::Revoke { id: None, .. } => (api.delete(&format!("{TOKENS}?all=true"))?, show_revoked),
            Self::Verify { scopes, audience } => {
                let mut query = form_urlencoded::Serializer::new(String::new());
                if !scopes.is_empty() {
                    query.append_pair("scope", &scopes.join(" "));
                }
                query.extend_pairs(audience.map(|audience| ("audience", audience)));
                return show_verified(&api.get(&format!("{VERIFY}?{}", query.finish()))?, json);
            }
        };
        // Also for JSON: an answer that cannot be read is none of Mayfly's.
        let shown = show(&answer)?;
        Ok(if json { format!("{}\n", answer.text) } else { shown })
    }
}

/// The JWT alone; at a terminal, a line says more at standard error.
fn show_issued(answer: &Answer) -> Result<String, ApiError> {
    let Issued { jwt_token_id: id, jwt_token: jwt, jwt_token_life: life } = answer.parse()?;
    if is_terminal() {
        anstream::eprintln!("Token {} lives {}. This is its JWT, shown this once:", printable(&id), in_words(life));
    }
    Ok(printable(&jwt) + "\n")
}

fn show_list(answer: &Answer) -> Result<String, ApiError> {
    let TokenList { jwt_tokens } = answer.parse()?;
    let tokens = jwt_tokens.into_iter().map(|(id, token)| Token::of(id, token).ok_or_else(|| answer.foreign()));
    let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
    Ok(match is_terminal() {
        true if tokens.is_empty() => "You have no tokens.\n".into(),
        true => table_of(&tokens),
        false => tokens.iter().map(Token::to_line).collect(),
    })
}

fn show_token(answer: &Answer) -> Result<String, ApiError> {
    let token = Token::of(String::new(), answer.parse()?).ok_or_else(|| answer.foreign())?;
    Ok(token.to_details())
}

fn show_revoked(answer: &Answer) -> Result<String, ApiError> {
    let Revoked { message, jwt_tokens_deleted } = answer.parse()?;
    Ok(match jwt_tokens_deleted {
        Some(count) => format!("{}: {count}\n", printable(&message)),
        None => printable(&message) + "\n",
    })
}

/// The owner, the id, the remaining seconds and the scopes of the token, which the answer has in its headers.
fn show_verified(answer: &Answer, json: bool) -> Result<String, ApiError> {
    let [user, id, seconds] = ["x-auth-user", "x-auth-token-id", "x-auth-expires-in"].map(|name| answer.header(name));
    let (user, id, scope) = (user?, id?, answer.optional_header("x-auth-scope"));
    let seconds: u64 = seconds?.parse().map_err(|_| answer.foreign())?;
    if json {
        let scopes: Option<Vec<_>> = scope.as_ref().map(|scope| scope.split(' ').collect());
        let mut text = json!({"username": user, "jwt_token_id": id, "jwt_token_life_remaining": seconds});
        if let Some(scopes) = scopes {
            text["jwt_token_scopes"] = scopes.into();
        }
        return Ok(format!("{text}\n"));
    }
    // A script has the exit code.
    let result = if is_terminal() { "valid\n" } else { "" };
    let values = values_of(&[
        ("user", user, None),
        ("id", id, None),
        ("remaining", seconds.to_string(), Some(in_words(seconds))),
        ("scopes", scope.unwrap_or_default(), None),
    ]);
    Ok(format!("{result}{values}"))
}
