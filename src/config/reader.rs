//! Reads TOML tables key by key and notes every mistake instead of stopping at the first.
//!
//! serde's `deny_unknown_fields` would be shorter, and would hide the second mistake behind the first.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Located, Mistake, Place};

/// The mistakes so far, and the text in which they stand.
pub(super) struct Notes<'s> {
    source: &'s str,
    pub(super) mistakes: Vec<Mistake>,
}

impl<'s> Notes<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        Self {
            source,
            mistakes: Vec::new(),
        }
    }

    pub(super) fn place(&self, offset: usize) -> Place {
        let before = &self.source.as_bytes()[..offset.min(self.source.len())];
        Place::Line(before.iter().filter(|byte| **byte == b'\n').count() + 1)
    }

    pub(super) fn note(&mut self, place: Place, sentence: impl Into<String>) {
        self.mistakes.push(Mistake {
            place,
            sentence: sentence.into(),
        });
    }
}

/// One table being read.
pub(super) struct Section<'t> {
    /// As people write it, e.g. `[gateway]`.
    name: &'static str,
    pub(super) place: Place,
    table: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Section<'t> {
    pub(super) fn new(name: &'static str, place: Place, table: &'t DeTable<'t>) -> Self {
        Self {
            name,
            place,
            table,
            known: Vec::new(),
        }
    }

    /// A text.
    pub(super) fn string(
        &mut self,
        key: &'static str,
        notes: &mut Notes<'_>,
    ) -> Option<Located<String>> {
        let value = self.value(key)?;
        let text = text_of(value, notes);
        if text.is_none() {
            self.wrong_type(key, value, "a text in quotes", notes);
        }
        text
    }

    /// A list of texts; a single text counts as a list of one.
    pub(super) fn strings(
        &mut self,
        key: &'static str,
        notes: &mut Notes<'_>,
    ) -> Option<Vec<Located<String>>> {
        let value = self.value(key)?;
        if let Some(text) = text_of(value, notes) {
            return Some(vec![text]);
        }
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of texts in quotes", notes);
            return None;
        };
        let mut texts = Vec::with_capacity(array.len());
        for element in array.iter() {
            match text_of(element, notes) {
                Some(text) => texts.push(text),
                None => self.wrong_type(key, element, "a list of texts in quotes", notes),
            }
        }
        Some(texts)
    }

    /// A whole number.
    pub(super) fn integer(
        &mut self,
        key: &'static str,
        notes: &mut Notes<'_>,
    ) -> Option<Located<i64>> {
        let value = self.value(key)?;
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|integer| i64::from_str_radix(integer.as_str(), integer.radix()).ok());
        if number.is_none() {
            self.wrong_type(key, value, "a whole number", notes);
        }
        number.map(|number| Located {
            place: notes.place(value.span().start),
            value: number,
        })
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str, notes: &mut Notes<'_>) -> Option<bool> {
        let value = self.value(key)?;
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong_type(key, value, "true or false", notes);
        }
        boolean
    }

    /// A table in this one.
    pub(super) fn section(
        &mut self,
        key: &'static str,
        name: &'static str,
        notes: &mut Notes<'_>,
    ) -> Option<Section<'t>> {
        let value = self.value(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table", notes);
            return None;
        };
        Some(Section::new(name, notes.place(value.span().start), table))
    }

    /// The tables of an array of tables.
    pub(super) fn sections(
        &mut self,
        key: &'static str,
        name: &'static str,
        notes: &mut Notes<'_>,
    ) -> Vec<Section<'t>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(
                key,
                value,
                "a list of tables, each under its own [[ ]] line",
                notes,
            );
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(array.len());
        for element in array.iter() {
            match element.get_ref().as_table() {
                Some(table) => {
                    let place = notes.place(element.span().start);
                    sections.push(Section::new(name, place, table));
                }
                None => self.wrong_type(key, element, "a list of tables", notes),
            }
        }
        sections
    }

    /// Notes every key that nobody asked for.
    pub(super) fn finish(self, notes: &mut Notes<'_>) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if !self.known.contains(&name) {
                let place = notes.place(key.span().start);
                let known = self.known.join(", ");
                notes.note(
                    place,
                    format!("{} has no key {name:?}; its keys are: {known}", self.name),
                );
            }
        }
    }

    fn value(&mut self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.push(key);
        self.table.get(key)
    }

    fn wrong_type(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        wanted: &str,
        notes: &mut Notes<'_>,
    ) {
        let place = notes.place(value.span().start);
        notes.note(place, format!("{key} in {} must be {wanted}", self.name));
    }
}

fn text_of(value: &Spanned<DeValue<'_>>, notes: &Notes<'_>) -> Option<Located<String>> {
    Some(Located {
        place: notes.place(value.span().start),
        value: value.get_ref().as_str()?.to_owned(),
    })
}
