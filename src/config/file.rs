//! The TOML file: from text to given values with their lines. Every unknown name is an error with the nearest right one.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Source};
use super::raw::Given;
use super::settings::{SETTINGS, find, is_name};
use super::{CacheControlRule, Place, suggest};
use crate::http::cache_control::{self, ResponseRule, RuleError};

/// What a file says.
#[derive(Debug, Default)]
pub struct FileSettings {
    /// Values of the table's settings: index, value, line.
    pub given: Vec<(usize, Given, Source)>,
    /// The rules of `[[cache_control]]`.
    pub cache_control: Vec<(CacheControlRule, Source)>,
    /// The entries of `[[unsandboxed]]`.
    pub unsandboxed: Vec<(Place, Source)>,
}

const CACHE_CONTROL: &str = "cache_control";
const UNSANDBOXED: &str = "unsandboxed";

/// Reads a file. A file that cannot be read is an error, not an empty file.
pub fn read(path: &Path, errors: &mut Vec<ConfigError>) -> FileSettings {
    match std::fs::read_to_string(path) {
        // Some editors begin a file with a mark of the byte order.
        Ok(text) => parse(path, text.strip_prefix('\u{feff}').unwrap_or(&text), errors),
        Err(error) => {
            let message = format!("cannot read the configuration file {}: {error}", path.display());
            errors.push(ConfigError { source: None, message });
            FileSettings::default()
        }
    }
}

/// Reads the text of a file.
pub fn parse(path: &Path, text: &str, errors: &mut Vec<ConfigError>) -> FileSettings {
    let mut reader = Reader { path, text, errors, found: FileSettings::default() };
    match DeTable::parse(text) {
        Ok(root) => reader.root(root.get_ref()),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            reader.error(at, error.message().trim().replace('\n', ", "));
        }
    }
    reader.found
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    errors: &'a mut Vec<ConfigError>,
    found: FileSettings,
}

impl Reader<'_> {
    fn source(&self, offset: usize) -> Source {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        Source::File(self.path.to_owned(), 1 + before.iter().filter(|&&byte| byte == b'\n').count())
    }

    fn error(&mut self, offset: usize, message: String) {
        let error = ConfigError::at(&self.source(offset), message);
        self.errors.push(error);
    }

    fn root(&mut self, root: &DeTable<'_>) {
        for (name, value) in root.iter() {
            let (at, section) = (name.span().start, name.get_ref().as_ref());
            match value.get_ref() {
                DeValue::Array(rules) if section == CACHE_CONTROL => rules.iter().for_each(|rule| self.rule(rule)),
                DeValue::Array(places) if section == UNSANDBOXED => {
                    places.iter().for_each(|place| self.unsandboxed(place));
                }
                _ if [CACHE_CONTROL, UNSANDBOXED].contains(&section) => {
                    self.error(at, format!("{section} is a list: [[{section}]]"));
                }
                DeValue::Table(table) if SETTINGS.iter().any(|setting| setting.section == section) => {
                    self.section(section, table);
                }
                DeValue::Table(_) => {
                    let hint = suggest::hint(section, sections());
                    self.error(at, format!("[{section}] is not a section of larder's configuration{hint}"));
                }
                _ if SETTINGS.iter().any(|setting| setting.section == section) => {
                    self.error(at, format!("`{section}` is a section: [{section}]"));
                }
                _ => {
                    let owner = SETTINGS.iter().find(|setting| setting.key == section);
                    let hint = owner.map(|setting| format!("; it belongs below [{}]", setting.section));
                    let hint = hint.unwrap_or_else(|| suggest::hint(section, sections()));
                    self.error(at, format!("`{section}` stands outside of any section{hint}"));
                }
            }
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (name, value) in table.iter() {
            let (at, key) = (name.span().start, name.get_ref().as_ref());
            let Some(index) = find(section, key) else {
                self.error(at, unknown(section, key));
                continue;
            };
            match given(value) {
                Ok(given) => {
                    let source = self.source(value.span().start);
                    self.found.given.push((index, given, source));
                }
                Err(message) => self.error(at, format!("{section}.{key}: {message}")),
            }
        }
    }

    fn rule(&mut self, rule: &Spanned<DeValue<'_>>) {
        let Some([namespace, collection, value]) =
            self.texts(CACHE_CONTROL, rule, ["namespace", "collection", "value"])
        else {
            return;
        };
        let (namespace, collection) = (namespace.map(|(text, _)| text), collection.map(|(text, _)| text));
        let at = rule.span().start;
        let Some((text, place)) = value else {
            let message = "a [[cache_control]] rule needs `value`, such as \"private, max-age=60\"";
            return self.error(at, message.to_owned());
        };
        match ResponseRule::parse(&text) {
            Ok(value) => {
                let source = self.source(at);
                self.found.cache_control.push((CacheControlRule { namespace, collection, value }, source));
            }
            Err(RuleError::Wrong(message)) => self.error(place, format!("cache_control.value: {message}")),
            Err(RuleError::Unknown(name)) => {
                let hint = suggest::hint(&name, cache_control::directives());
                self.error(place, format!("cache_control.value: `{name}` is no directive of Cache-Control{hint}"));
            }
        }
    }

    fn unsandboxed(&mut self, entry: &Spanned<DeValue<'_>>) {
        let Some([namespace, collection]) = self.texts(UNSANDBOXED, entry, ["namespace", "collection"]) else { return };
        for (what, given) in [("namespace", &namespace), ("collection", &collection)] {
            if let Some((name, place)) = given.as_ref().filter(|(name, _)| !is_name(name)) {
                self.error(*place, format!("unsandboxed.{what}: `{name}` cannot be the name of a {what}"));
            }
        }
        let at = entry.span().start;
        match namespace {
            Some((namespace, _)) => {
                let place = Place { namespace, collection: collection.map(|(name, _)| name) };
                let source = self.source(at);
                self.found.unsandboxed.push((place, source));
            }
            None => self.error(at, "an [[unsandboxed]] entry needs `namespace`".to_owned()),
        }
    }

    /// The texts of a table in a list of tables, each with its offset.
    fn texts<const N: usize>(
        &mut self,
        list: &str,
        entry: &Spanned<DeValue<'_>>,
        keys: [&'static str; N],
    ) -> Option<[Option<(String, usize)>; N]> {
        let DeValue::Table(table) = entry.get_ref() else {
            self.error(entry.span().start, format!("{list} is a list of tables: [[{list}]]"));
            return None;
        };
        let mut found = [const { None }; N];
        for (name, value) in table.iter() {
            let (at, key) = (name.span().start, name.get_ref().as_ref());
            let Some(index) = keys.iter().position(|known| *known == key) else {
                let hint = suggest::hint(key, keys);
                self.error(at, format!("{list}.{key} is not a setting{hint}"));
                continue;
            };
            match value.get_ref().as_str().filter(|text| !text.is_empty()) {
                Some(text) => found[index] = Some((text.to_owned(), value.span().start)),
                None => self.error(at, format!("{list}.{key}: expected text in quotes")),
            }
        }
        Some(found)
    }
}

fn sections() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|setting| setting.section).chain([CACHE_CONTROL, UNSANDBOXED])
}

/// The message for a setting that does not exist: the nearest in its section, or its right section.
pub fn unknown(section: &str, key: &str) -> String {
    let here = SETTINGS.iter().filter(|setting| setting.section == section).map(|setting| setting.key);
    let hint = match suggest::nearest(key, here) {
        Some(near) => format!("; did you mean `{section}.{near}`?"),
        None => {
            let elsewhere = SETTINGS.iter().find(|setting| setting.key == key);
            elsewhere.map_or(String::new(), |setting| format!("; did you mean `{}`?", setting.name()))
        }
    };
    format!("`{section}.{key}` is not a setting{hint}")
}

/// A value of the file as it was given.
pub fn given(value: &Spanned<DeValue<'_>>) -> Result<Given, String> {
    Ok(match value.get_ref() {
        DeValue::String(text) => Given::Text(text.to_string()),
        DeValue::Integer(integer) => {
            let number = i64::from_str_radix(integer.as_str(), integer.radix());
            Given::Integer(number.map_err(|_| format!("{integer} is too large"))?)
        }
        DeValue::Float(float) => Given::Float(float.as_str().parse().map_err(|_| format!("{float} is no number"))?),
        DeValue::Boolean(switch) => Given::Switch(*switch),
        DeValue::Array(array) => {
            let texts = array.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
            Option::map_or(texts, Given::Other("a list of something else"), Given::List)
        }
        DeValue::Datetime(_) => Given::Other("a date"),
        DeValue::Table(_) => Given::Other("a table"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(text: &str) -> Vec<String> {
        let mut errors = Vec::new();
        parse(Path::new("l.toml"), text, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_carry_their_lines() {
        let mut errors = Vec::new();
        let text = "# larder\n[server]\nworkers = 4\n\nlisten = [\n  \"a\",\n]\n[cache]\nsize = \"1MiB\"\n";
        let read = parse(Path::new("l.toml"), text, &mut errors);
        assert_eq!(errors, []);
        let lines: Vec<_> =
            read.given.iter().map(|(index, _, source)| (SETTINGS[*index].key, source.to_string())).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.contains(&("workers", "l.toml:3".to_owned())));
        assert!(lines.contains(&("listen", "l.toml:5".to_owned())));
        assert!(lines.contains(&("size", "l.toml:9".to_owned())));
    }

    #[test]
    fn unknown_names_are_refused_with_the_nearest() {
        for (text, error) in [
            ("[server]\n\nlistn = 1", "l.toml:3: `server.listn` is not a setting; did you mean `server.listen`?"),
            ("[sever]\nx = 1", "l.toml:1: [sever] is not a section of larder's configuration; did you mean `server`?"),
            ("workers = 1", "l.toml:1: `workers` stands outside of any section; it belongs below [server]"),
            ("[cache]\ndir = \"x\"", "l.toml:2: `cache.dir` is not a setting; did you mean `store.dir`?"),
            ("server = 1", "l.toml:1: `server` is a section: [server]"),
            (
                "[[unsandboxed]]\nnamespace = \"a\"\ncolection = \"x\"",
                "l.toml:3: unsandboxed.colection is not a setting; did you mean `collection`?",
            ),
            (
                "[[unsandboxd]]\nnamespace = \"a\"",
                "l.toml:1: `unsandboxd` stands outside of any section; did you mean `unsandboxed`?",
            ),
            ("[unsandboxed]\nnamespace = \"a\"", "l.toml:1: unsandboxed is a list: [[unsandboxed]]"),
            ("[[unsandboxed]]\ncollection = \"a\"", "l.toml:1: an [[unsandboxed]] entry needs `namespace`"),
            (
                "[[unsandboxed]]\nnamespace = \"a/b\"",
                "l.toml:2: unsandboxed.namespace: `a/b` cannot be the name of a namespace",
            ),
            ("[[cache_control]]\nvalu = \"x\"", "l.toml:2: cache_control.valu is not a setting; did you mean `value`?"),
            (
                "[compress]\nthreshold = 1",
                "l.toml:2: `compress.threshold` is not a setting; did you mean `compress.threshold_bytes`?",
            ),
        ] {
            assert_eq!(errors_of(text).first().map(String::as_str), Some(error), "{text}");
        }
    }

    #[test]
    fn broken_toml_is_an_error_with_its_line() {
        for (text, line) in [
            ("[server\n", "l.toml:1:"),
            ("[server]\nworkers = \n", "l.toml:2:"),
            ("a = 1\n[server]\nworkers = 1\nworkers = 2", "l.toml:4:"),
        ] {
            let errors = errors_of(text);
            assert!(errors.iter().any(|error| error.starts_with(line)), "{text}: {errors:?}");
        }
    }

    #[test]
    fn rules_are_read_with_what_they_are_for() {
        let mut errors = Vec::new();
        let text = "[[cache_control]]\nnamespace = \"a\"\nvalue = \"private, max-age=5\"\n[[cache_control]]\nvalue = \"no-store\"\n";
        let read = parse(Path::new("l.toml"), text, &mut errors);
        assert_eq!(errors, []);
        assert_eq!(read.cache_control.len(), 2);
        assert_eq!(read.cache_control[0].0.namespace.as_deref(), Some("a"));
        assert_eq!(read.cache_control[1].1.to_string(), "l.toml:4");
    }
}
