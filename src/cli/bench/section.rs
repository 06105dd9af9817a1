//! Reading a table of a scenario: values by name and type, and what is wrong with the line where it stands.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::config::raw::Given;
use crate::config::{file, suggest};

/// The file, and what was found wrong in it.
pub struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    errors: RefCell<Vec<(usize, String)>>,
}

impl<'a> Reader<'a> {
    /// A reader that has found nothing yet.
    pub fn new(path: &'a Path, text: &'a str) -> Reader<'a> {
        Reader { path, text, errors: RefCell::default() }
    }

    /// Notes an error at an offset of the text.
    pub fn error(&self, offset: usize, message: String) {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        self.errors.borrow_mut().push((line, message));
    }

    /// All errors in the order of their lines, as `file:line: what`.
    pub fn finish(self) -> Vec<String> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|(line, _)| *line);
        errors.into_iter().map(|(line, message)| format!("{}:{line}: {message}", self.path.display())).collect()
    }
}

/// One table. What cannot be read is `None`, and the error is noted.
pub struct Section<'a> {
    reader: &'a Reader<'a>,
    name: &'a str,
    at: usize,
    table: &'a DeTable<'a>,
}

impl<'a> Section<'a> {
    /// A table that begins at an offset of the text; the name is empty for the whole file.
    pub fn new(reader: &'a Reader<'a>, name: &'a str, at: usize, table: &'a DeTable<'a>) -> Section<'a> {
        Section { reader, name, at, table }
    }

    fn shown(&self, name: &str) -> String {
        if self.name.is_empty() { name.to_owned() } else { format!("{}.{name}", self.name) }
    }

    /// Notes an error of the whole table.
    pub fn error(&self, message: &str) {
        self.reader.error(self.at, message.to_owned());
    }

    /// Notes an error of one value.
    pub fn error_at(&self, name: &str, message: &str) {
        let found = self.table.iter().find(|(key, _)| key.get_ref() == name);
        let at = found.map_or(self.at, |(key, _)| key.span().start);
        self.reader.error(at, format!("{}: {message}", self.shown(name)));
    }

    /// The result, or `None` and its error noted at a value.
    pub fn told<T>(&self, name: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.error_at(name, &message)).ok()
    }

    /// Notes every name that means nothing here, with the nearest that does.
    pub fn only_knows(&self, names: &[&str]) {
        for (key, _) in self.table.iter().filter(|(key, _)| !names.contains(&key.get_ref().as_ref())) {
            let hint = suggest::hint(key.get_ref(), names.iter().copied());
            self.reader.error(key.span().start, format!("`{}` means nothing here{hint}", self.shown(key.get_ref())));
        }
    }

    /// The names in this table.
    pub fn names(&self) -> Vec<String> {
        self.table.iter().map(|(key, _)| key.get_ref().to_string()).collect()
    }

    /// Whether a name stands in this table.
    pub fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// A value as TOML has it.
    pub fn value(&self, name: &str) -> Option<&'a DeValue<'a>> {
        self.table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value.get_ref())
    }

    /// A value read by a function.
    pub fn read<T>(&self, name: &str, read: impl FnOnce(Given) -> Result<T, String>) -> Option<T> {
        let (_, value) = self.table.iter().find(|(key, _)| key.get_ref() == name)?;
        self.told(name, file::given(value).and_then(read))
    }

    /// A text that is not empty.
    pub fn text(&self, name: &str) -> Option<String> {
        self.read(name, |given| given.text("text").map(str::to_owned))
    }

    /// A text, or a number as it is written.
    pub fn words(&self, name: &str) -> Option<String> {
        self.read(name, |given| match given {
            Given::Integer(number) => Ok(number.to_string()),
            Given::Float(number) => Ok(number.to_string()),
            other => other.text("text").map(str::to_owned),
        })
    }

    /// One of some words.
    pub fn one_of(&self, name: &str, words: &[&str]) -> Option<String> {
        self.read(name, |given| {
            let text = given.text(words.first().unwrap_or(&""))?;
            if words.contains(&text) { Ok(text.to_owned()) } else { Err(format!("is one of {}", words.join(", "))) }
        })
    }

    /// A number above 0.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.read(name, |given| given.number())
    }

    /// A whole number between two bounds.
    pub fn whole(&self, name: &str, least: u64, most: u64) -> Option<u64> {
        self.read(name, |given| match given.count()? {
            number if (least..=most).contains(&number) => Ok(number),
            number => Err(format!("{number} is not between {least} and {most}")),
        })
    }

    /// A duration above 0.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        self.read(name, |given| match given.duration()? {
            Duration::ZERO => Err("is nothing".to_owned()),
            duration => Ok(duration),
        })
    }

    /// `true` or `false`.
    pub fn switch(&self, name: &str) -> Option<bool> {
        self.read(name, |given| given.switch())
    }

    /// A table in this one.
    pub fn table(&self, name: &'a str) -> Option<Section<'a>> {
        let (key, value) = self.table.iter().find(|(key, _)| key.get_ref() == name)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Section::new(self.reader, name, key.span().start, table)),
            _ => {
                self.error_at(name, &format!("is a table: [{name}]"));
                None
            }
        }
    }

    /// The tables of a list in this one.
    pub fn tables(&self, name: &'a str) -> Vec<Section<'a>> {
        let Some(value) = self.value(name) else { return Vec::new() };
        let mut sections = Vec::new();
        match value {
            DeValue::Array(items) => {
                for item in items.iter() {
                    match item.get_ref() {
                        DeValue::Table(table) => {
                            sections.push(Section::new(self.reader, name, item.span().start, table));
                        }
                        _ => self.error_at(name, &format!("is a list of tables: [[{name}]]")),
                    }
                }
            }
            _ => self.error_at(name, &format!("is a list of tables: [[{name}]]")),
        }
        sections
    }
}
