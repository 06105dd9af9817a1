//! Texts with places to fill: `{n}`, `{random}`, `{random:1000}`, `{run}`, and the columns of the data.
//!
//! A brace begins a place only if a name follows at once, so that JSON can be written as it is.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::columns::Columns;
use super::random::Random;

/// `{random}` is below this.
const RANDOM_BOUND: u64 = 1_000_000;
/// What may stand in a path segment or in a query as it is.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Number,
    Random(u64),
    Run,
    Column(usize),
}

/// A text with places to fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// What the places of one request are filled with.
pub struct Filling<'a> {
    /// `{n}`: how many requests of its kind came before.
    pub number: u64,
    /// `{run}`: the name of this run, unlike that of any other.
    pub run: &'a str,
    /// The row of the data.
    pub row: &'a [String],
}

impl Template {
    /// A text without places.
    pub fn literal(text: &str) -> Template {
        Template(vec![Part::Text(text.to_owned())])
    }

    /// Reads a text. The error names the place that means nothing.
    pub fn parse(text: &str, columns: Option<&Columns>) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let inside = &rest[open + 1..];
            let end = inside.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-' | '.')));
            let name = &inside[..end.unwrap_or(inside.len())];
            let closed = inside[name.len()..].starts_with('}');
            if !closed || name.is_empty() {
                push_text(&mut parts, &rest[..=open]);
                rest = inside;
                continue;
            }
            push_text(&mut parts, &rest[..open]);
            parts.push(part(name, columns)?);
            rest = &inside[name.len() + 1..];
        }
        push_text(&mut parts, rest);
        Ok(Template(parts))
    }

    /// Writes the text with its places filled; `encoded` makes each filled part one segment of a path.
    pub fn fill(&self, into: &mut String, filling: &Filling<'_>, random: &mut Random, encoded: bool) {
        for part in &self.0 {
            // Writing to a text cannot fail.
            let _ = match part {
                Part::Text(text) => into.write_str(text),
                Part::Number => write!(into, "{}", filling.number),
                Part::Random(bound) => write!(into, "{}", random.below(*bound)),
                Part::Run => into.write_str(filling.run),
                Part::Column(index) => {
                    let text = filling.row.get(*index).map_or("", String::as_str);
                    if encoded { write!(into, "{}", utf8_percent_encode(text, SEGMENT)) } else { into.write_str(text) }
                }
            };
        }
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(last)) => last.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

fn part(name: &str, columns: Option<&Columns>) -> Result<Part, String> {
    if let Some(index) = columns.and_then(|columns| columns.index(name)) {
        return Ok(Part::Column(index));
    }
    match name.split_once(':') {
        None if name == "n" => Ok(Part::Number),
        None if name == "run" => Ok(Part::Run),
        None if name == "random" => Ok(Part::Random(RANDOM_BOUND)),
        Some(("random", bound)) => match bound.parse() {
            Ok(bound @ 1..) => Ok(Part::Random(bound)),
            _ => Err(format!("`{{{name}}}` needs a whole number above 0, such as {{random:1000}}")),
        },
        _ => {
            let known = ["n", "run", "random"].into_iter().chain(columns.into_iter().flat_map(Columns::names));
            let hint = crate::config::suggest::hint(name, known);
            Err(format!("`{{{name}}}` is neither {{n}}, {{random}} or {{run}} nor a column of the data{hint}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str, encoded: bool) -> String {
        let columns = Columns::parse("key\nx\n", false).unwrap();
        let row = ["a/b ü".to_owned()];
        let mut out = String::new();
        let filling = Filling { number: 41, run: "r1", row: &row };
        Template::parse(text, Some(&columns)).unwrap().fill(&mut out, &filling, &mut Random::new(1), encoded);
        out
    }

    #[test]
    fn places_are_filled_and_json_stays_as_it_is() {
        assert_eq!(filled("/kv/{run}/k{n}", true), "/kv/r1/k41");
        assert_eq!(filled("{\"a\": {\"n\": {n}}, \"b\": {}}", false), "{\"a\": {\"n\": 41}, \"b\": {}}");
        assert_eq!(filled("{random:1}{", false), "0{");
        assert_eq!(filled("/{key}", true), "/a%2Fb%20%C3%BC");
        assert_eq!(filled("{key}", false), "a/b ü");
    }

    #[test]
    fn a_place_that_means_nothing_is_an_error_that_names_it() {
        for (text, part) in [
            ("{ky}", "{ky}"),
            ("{rndom}", "did you mean `random`?"),
            ("{random:x}", "{random:1000}"),
            ("{random:0}", "above 0"),
        ] {
            let error = Template::parse(text, None).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
