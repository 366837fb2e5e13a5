//! Printing: tables that line up, JSON that is one value, and an end without noise when nobody reads any more.

use std::io::{self, IsTerminal, Write};

use protocol::time::UnixMs;
use serde::Serialize;

/// Rows under a head; columns are as wide as their longest cell, numbers to the right.
#[derive(Debug)]
pub(super) struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&'static str]) -> Table {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(super) fn text(&self) -> String {
        let columns = self.head.len();
        let cell = |row: &Vec<String>, i: usize| row.get(i).cloned().unwrap_or_default();
        let width = |i: usize| {
            let cells = self.rows.iter().map(|row| cell(row, i).chars().count());
            cells.chain([self.head[i].len()]).max().unwrap_or(0)
        };
        let numbers: Vec<bool> = (0..columns)
            .map(|i| self.rows.iter().all(|row| cell(row, i).starts_with(|c: char| c.is_ascii_digit())))
            .collect();
        let line = |cells: Vec<String>| {
            let mut out = String::new();
            for (i, text) in cells.iter().enumerate() {
                let pad = " ".repeat(width(i).saturating_sub(text.chars().count()));
                let gap = if i == 0 { "" } else { "  " };
                out += &if numbers[i] && i > 0 {
                    format!("{gap}{pad}{text}")
                } else {
                    format!("{gap}{text}{pad}")
                };
            }
            out.trim_end().to_owned() + "\n"
        };
        let head = line(self.head.iter().map(|h| (*h).to_owned()).collect());
        self.rows.iter().fold(head, |all, row| all + &line((0..columns).map(|i| cell(row, i)).collect()))
    }
}

pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

pub(super) fn print_json<T: Serialize>(value: &T) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
    print(&(text + "\n"))
}

/// A wall-clock time for people, in UTC.
pub(super) fn show_time(time: UnixMs) -> String {
    let ms = i64::try_from(time.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| "?".to_owned(), |t| t.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A spinner or bar on standard error, or nothing where that is no terminal.
pub(super) fn progress(length: Option<u64>, template: &str) -> indicatif::ProgressBar {
    if !io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let bar = length.map_or_else(indicatif::ProgressBar::new_spinner, indicatif::ProgressBar::new);
    bar.with_style(
        indicatif::ProgressStyle::with_template(template)
            .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_are_on_the_right() {
        let mut table = Table::new(&["NAME", "SHARDS"]);
        table.row(vec!["telemetry".to_owned(), "8".to_owned()]);
        table.row(vec!["x".to_owned(), "128".to_owned()]);
        assert_eq!(table.text(), "NAME       SHARDS\ntelemetry       8\nx             128\n");
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(show_time(UnixMs(0)), "1970-01-01 00:00:00Z");
    }
}
