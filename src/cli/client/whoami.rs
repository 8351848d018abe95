//! `mayfly whoami`: who the caller is to a service.

use clap::Args;
use serde::Deserialize;

use super::{
    api::printable,
    help::CLIENT_HELP,
    login::log_in,
    table::{in_words, is_terminal},
};
use crate::{
    cli::{
        interruptible::{in_thread, until_signal},
        outcome::{Failure, print},
    },
    config::ClientSettings,
};

#[derive(Args)]
#[command(after_help = CLIENT_HELP, after_long_help = CLIENT_HELP)]
pub(in crate::cli) struct WhoamiCommand {
    #[command(flatten)]
    service: ClientSettings,

    /// Print the answer of the service as JSON
    #[arg(long)]
    json: bool,
}

/// The answer.
#[derive(Deserialize)]
struct Caller {
    username: String,
    role: String,
    jwt_token_max_life: u64,
    jwt_token_quota: usize,
}

impl WhoamiCommand {
    #[tokio::main(flavor = "current_thread")]
    pub(in crate::cli) async fn run(self) -> Result<(), Failure> {
        until_signal(async {
            let api = log_in(&self.service).await?;
            let answer = in_thread(move || api.get("/api/v1alpha/whoami")).await?;
            print(&self.report(&answer.text, answer.parse()?))
        })
        .await
    }

    fn report(&self, text: &str, caller: Caller) -> String {
        let Caller { username, role, jwt_token_max_life: life, jwt_token_quota: quota } = caller;
        let (name, role) = (printable(&username), printable(&role));
        if self.json {
            format!("{text}\n")
        } else if is_terminal() {
            format!("{name} ({role}), with up to {quota} tokens that live up to {}\n", in_words(life))
        } else {
            format!("{name}\t{role}\t{quota}\t{life}\n")
        }
    }
}
