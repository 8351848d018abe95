//! `mayfly openapi`: print the OpenAPI document.

use clap::{Args, ValueEnum};

use super::outcome::{Failure, print};
use crate::http;

#[derive(Args)]
pub(super) struct Openapi {
    /// Set the format
    #[arg(long, value_enum, default_value_t = Format::Yaml)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Yaml,
    Json,
}

impl Openapi {
    pub(super) fn run(self) -> Result<(), Failure> {
        let text = match self.format {
            Format::Yaml => http::document_yaml(),
            Format::Json => format!("{:#}\n", http::document()),
        };
        print(&text)
    }
}
