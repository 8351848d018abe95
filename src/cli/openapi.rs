//! `mayfly openapi`: print the OpenAPI document.

use clap::ValueEnum;

use super::outcome::{Failure, print};
use crate::http;

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Format {
    Yaml,
    Json,
}

pub(super) fn run(format: Format) -> Result<(), Failure> {
    let text = match format {
        Format::Yaml => http::document_yaml(),
        Format::Json => format!("{:#}\n", http::document()),
    };
    print(&text)
}
