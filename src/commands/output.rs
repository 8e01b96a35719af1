//! What commands say: results on standard output, everything else on standard error.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::Failure;

/// A result, with a line's end.
pub(crate) fn print(text: impl fmt::Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// A result as JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::refused(format!("The answer has no JSON form: {error}.")))?;
    print(text)
}

/// A value as JSON in one line.
pub(crate) fn one_line(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::refused(format!("The answer has no JSON form: {error}.")))
}

/// A word to people, whoever reads the results. That it cannot be written stops nothing.
pub(crate) fn note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A word to people who are there; scripts are spared it.
pub(crate) fn hint(text: impl fmt::Display) {
    if io::stderr().is_terminal() {
        note(text);
    }
}

/// Text that came from outside, without characters that would steer a terminal.
pub(crate) fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for character in text.chars() {
        // The direction marks of Unicode reorder what is read as much as control characters do.
        let steering = character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if steering {
            let _ = write!(harmless, "{}", character.escape_unicode());
        } else {
            harmless.push(character);
        }
    }
    harmless
}

/// Rows in aligned columns under a header.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    /// Columns are at least so wide: as wide as in the part that was taken before.
    widths: Vec<usize>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(|&title| title.to_owned()).collect()],
            widths: Vec::new(),
        }
    }

    /// Adds a row with as many cells as the header has.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|cell| harmless(&cell)).collect());
    }

    /// The rows so far as text; those that follow go on below, without a header.
    pub(crate) fn take(&mut self) -> String {
        self.widths = self.column_widths();
        let text = self.to_string();
        self.rows.clear();
        text
    }

    fn column_widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let mut widths = self.widths.clone();
        widths.resize(columns.max(widths.len()), 0);
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.column_widths();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                let _ = write!(line, "{cell:width$}  ", width = *width);
            }
            if number > 0 {
                f.write_str("\n")?;
            }
            f.write_str(line.trim_end())?;
        }
        Ok(())
    }
}

/// A value, or a dash where there is none.
pub(crate) fn or_dash(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `1 connection`, `2 connections`.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_harmless() {
        let mut table = Table::new(&["ID", "STATUS", "LAST SEEN"]);
        table.row(["thermostat-7".into(), "active".into(), or_dash(None::<u8>)]);
        table.row(["ä".into(), "a\x1b[31m\n".into(), "\u{202e}x".into()]);
        let expected = "\
ID            STATUS            LAST SEEN
thermostat-7  active            -
ä             a\\u{1b}[31m\\u{a}  \\u{202e}x";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn a_table_in_parts_stays_aligned() {
        let mut table = Table::new(&["ID", "X"]);
        table.row(["abcdef".into(), "1".into()]);
        assert_eq!(table.take(), "ID      X\nabcdef  1");
        table.row(["a".into(), "2".into()]);
        assert_eq!(table.take(), "a       2");
    }
}
