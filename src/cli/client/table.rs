//! Tables and durations as people read them, at a terminal.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal},
};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use textwrap::core::display_width;

/// The styles of headings, and of remaining lives.
pub(super) const HEADING: Style = Style::new().bold();
const LONG: Style = AnsiColor::Green.on_default();
const SHORT: Style = AnsiColor::Yellow.on_default();
const ENDING: Style = AnsiColor::Red.on_default();

/// The columns between two columns of text.
const GAP: usize = 2;

/// The units of durations, in seconds; a year as in the lives of tokens.
const UNITS: [(u64, &str); 5] = [(31_557_600, "year"), (86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];

/// A text in a table.
pub(super) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Style::new() }
    }

    pub(super) fn styled(self, style: Style) -> Self {
        Self { style, ..self }
    }
}

/// Whether standard output is a terminal.
pub(super) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// The rows as a table for the terminal, with colours if it takes them and `NO_COLOR` is not set.
pub(super) fn render(rows: &[Vec<Cell>]) -> String {
    let has_colours = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(Cell::width).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (Cell { text, style }, width) in row.iter().zip(&widths) {
            let padding = width + GAP - display_width(text);
            if has_colours {
                write!(line, "{style}{text}{style:#}").expect("a string takes any text");
            } else {
                line.push_str(text);
            }
            line.extend([" "].repeat(padding));
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

impl Cell {
    fn width(&self) -> usize {
        display_width(&self.text)
    }
}

/// A duration in its two largest units: `5 hours 59 minutes`.
pub(super) fn in_words(seconds: u64) -> String {
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (unit, name) in UNITS {
        let count = rest / unit;
        rest %= unit;
        if count > 0 {
            parts.push(format!("{count} {name}{}", if count == 1 { "" } else { "s" }));
        } else if !parts.is_empty() {
            break;
        }
    }
    parts.truncate(2);
    if parts.is_empty() { "0 seconds".into() } else { parts.join(" ") }
}

/// The style of a remaining life: its colour says whether less than half, or less than a tenth is left.
pub(super) fn style_of_life(remaining: f64, life: u64) -> Style {
    #[expect(clippy::cast_precision_loss, reason = "a colour needs no precision")]
    let share = remaining / life as f64;
    match share {
        share if share < 0.1 => ENDING,
        share if share < 0.5 => SHORT,
        _ => LONG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_two_units() {
        for (seconds, expected) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (90, "1 minute 30 seconds"),
            (21_599, "5 hours 59 minutes"),
            (86_400, "1 day"),
            (86_401, "1 day"),
            (31_557_600 + 2 * 86_400, "1 year 2 days"),
        ] {
            assert_eq!(in_words(seconds), expected);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_texts() {
        let rows = [["ID", "WHAT"], ["1", "CI"], ["22", "配置"]].map(|row| row.map(Cell::new).into());
        assert_eq!(anstream::adapter::strip_str(&render(&rows)).to_string(), "ID  WHAT\n1   CI\n22  配置\n");
    }
}
