//! Entity tags: writing a version as one, and reading lists of them (RFC 9110 §8.8.3).
//!
//! It knows tags, not what they stand for. Invariant: a tag that larder writes is strong, and reads back as the version
//! it was written from; no other text reads back as a version.

use std::ops::Deref;

use super::wire::push_decimal;

/// What the tag of a gzip form ends with, inside the quotes.
pub const GZIP_SUFFIX: &str = "-gzip";

const ETAG_BYTES_MAX: usize = 1 + 20 + GZIP_SUFFIX.len() + 1;

/// A version's entity tag with its quotes, held without an allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Etag {
    bytes: [u8; ETAG_BYTES_MAX],
    len: u8,
}

impl Deref for Etag {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }
}

impl std::fmt::Display for Etag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self)
    }
}

impl std::fmt::Debug for Etag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self)
    }
}

/// The tag of a version's identity form: `"41"`.
pub fn write_etag(version: u64) -> Etag {
    write(version, "")
}

/// The tag of a version's gzip form: `"41-gzip"`.
pub fn write_gzip_etag(version: u64) -> Etag {
    write(version, GZIP_SUFFIX)
}

fn write(version: u64, suffix: &str) -> Etag {
    let mut bytes = [b'"'; ETAG_BYTES_MAX];
    let mut digits = version;
    let mut len = 1 + version.checked_ilog10().unwrap_or(0) as usize + 1;
    for place in (1..len).rev() {
        bytes[place] = b'0' + (digits % 10) as u8;
        digits /= 10;
    }
    bytes[len..len + suffix.len()].copy_from_slice(suffix.as_bytes());
    len += suffix.len() + 1;
    Etag { bytes, len: len as u8 }
}

/// Appends the tag of a version to a header block, without an intermediate copy.
pub fn push_etag(out: &mut Vec<u8>, version: u64, gzip: bool) {
    out.push(b'"');
    push_decimal(out, version);
    if gzip {
        out.extend_from_slice(GZIP_SUFFIX.as_bytes());
    }
    out.push(b'"');
}

/// One entity tag of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// It was sent with `W/`.
    pub weak: bool,
    /// What stands between the quotes.
    pub opaque: String,
}

impl Tag {
    /// The version that this tag names, and whether it names the gzip form; `None` if larder never wrote such a tag.
    pub fn version(&self) -> Option<(u64, bool)> {
        let (digits, gzip) = match self.opaque.strip_suffix(GZIP_SUFFIX) {
            Some(digits) => (digits, true),
            None => (self.opaque.as_str(), false),
        };
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
        if !plain {
            return None;
        }
        digits.parse().ok().map(|version| (version, gzip))
    }
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagSet {
    /// `*`: whatever is there.
    Any,
    /// These. An empty list is legal and matches nothing.
    Tags(Vec<Tag>),
}

/// The text is no list of entity tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedTags;

impl TagSet {
    /// Reads all lines of a field as one list. Empty elements are passed over (RFC 9110 §5.6.1.2).
    pub fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Result<TagSet, MalformedTags> {
        let mut any = false;
        let mut tags = Vec::new();
        for line in lines {
            if line.trim_matches(BLANKS) == "*" {
                any = true;
            } else {
                parse_line(line, &mut tags)?;
            }
        }
        match (any, tags.is_empty()) {
            (true, true) => Ok(TagSet::Any),
            (true, false) => Err(MalformedTags),
            (false, _) => Ok(TagSet::Tags(tags)),
        }
    }
}

const BLANKS: &[char] = &[' ', '\t'];

fn parse_line(line: &str, tags: &mut Vec<Tag>) -> Result<(), MalformedTags> {
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Ok(());
        }
        let (tag, after) = parse_tag(rest)?;
        tags.push(tag);
        rest = after.trim_start_matches(BLANKS);
        if !rest.is_empty() && !rest.starts_with(',') {
            return Err(MalformedTags);
        }
    }
}

/// Reads one entity tag at the start of a text and returns what follows it.
pub fn parse_tag(text: &str) -> Result<(Tag, &str), MalformedTags> {
    let (weak, quoted) = text.strip_prefix("W/").map_or((false, text), |quoted| (true, quoted));
    let (opaque, after) = quoted.strip_prefix('"').and_then(|open| open.split_once('"')).ok_or(MalformedTags)?;
    if opaque.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(MalformedTags);
    }
    Ok((Tag { weak, opaque: opaque.to_owned() }, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Result<TagSet, MalformedTags> {
        TagSet::parse([line].into_iter())
    }

    fn strong(opaque: &str) -> Tag {
        Tag { weak: false, opaque: opaque.to_owned() }
    }

    #[test]
    fn tags_are_quoted_decimal_numbers() {
        assert_eq!(&*write_etag(0), "\"0\"");
        assert_eq!(&*write_etag(41), "\"41\"");
        assert_eq!(&*write_gzip_etag(41), "\"41-gzip\"");
        assert_eq!(&*write_gzip_etag(u64::MAX), "\"18446744073709551615-gzip\"");
    }

    #[test]
    fn lists_may_hold_commas_inside_tags_and_empty_elements() {
        let Ok(TagSet::Tags(tags)) = parse(" ,\"a,b\" ,, W/\"c\",\t\"\",") else { panic!() };
        assert_eq!(tags, [strong("a,b"), Tag { weak: true, opaque: "c".into() }, strong("")]);
    }

    #[test]
    fn lines_are_combined() {
        let set = TagSet::parse(["\"1\"", "\"2\""].into_iter());
        assert_eq!(set, Ok(TagSet::Tags(vec![strong("1"), strong("2")])));
    }

    #[test]
    fn a_star_stands_alone() {
        assert_eq!(parse(" * "), Ok(TagSet::Any));
        assert_eq!(parse("*, \"1\""), Err(MalformedTags));
        assert_eq!(TagSet::parse(["*", "\"1\""].into_iter()), Err(MalformedTags));
    }

    #[test]
    fn malformed_lists_are_refused() {
        for line in ["41", "\"41", "41\"", "w/\"41\"", "\"a\" \"b\"", "\"a\"x", "\"a b\"", "W/ \"a\"", "W/", "\"a\", 1"]
        {
            assert_eq!(parse(line), Err(MalformedTags), "{line}");
        }
    }

    #[test]
    fn an_empty_list_names_nothing() {
        assert_eq!(parse(""), Ok(TagSet::Tags(vec![])));
    }

    #[test]
    fn only_canonical_numbers_are_versions() {
        for opaque in
            ["", "-gzip", "041", "+1", "-1", "1-gzip-gzip", "1-GZIP", "1-br", " 1", "1.0", "18446744073709551616"]
        {
            assert_eq!(strong(opaque).version(), None, "{opaque}");
        }
        assert_eq!(strong("0").version(), Some((0, false)));
    }

    proptest! {
        #[test]
        fn a_written_tag_reads_back_as_its_version(version: u64, gzip: bool) {
            let text = if gzip { write_gzip_etag(version) } else { write_etag(version) };
            let Ok(TagSet::Tags(tags)) = parse(&text) else { panic!() };
            prop_assert_eq!(tags.len(), 1);
            prop_assert_eq!(tags[0].version(), Some((version, gzip)));
            let mut pushed = Vec::new();
            push_etag(&mut pushed, version, gzip);
            prop_assert_eq!(pushed, text.as_bytes());
        }

        #[test]
        fn a_list_written_from_tags_reads_back(tags in proptest::collection::vec((any::<bool>(), "[!#-~é]{0,9}"), 0..9)) {
            let text: Vec<String> = tags.iter().map(|(weak, o)| format!("{}\"{o}\"", if *weak { "W/" } else { "" })).collect();
            let expected = tags.into_iter().map(|(weak, opaque)| Tag { weak, opaque }).collect();
            prop_assert_eq!(parse(&text.join(", ")), Ok(TagSet::Tags(expected)));
        }

        #[test]
        fn no_text_makes_the_parser_fail_otherwise(line in "\\PC{0,40}") {
            let _ = parse(&line);
        }
    }
}
