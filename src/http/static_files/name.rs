//! What the path of a request says by itself: which file is meant.
//!
//! Invariant: a [`FilePath`] holds no `.`, `..`, empty or hidden segment and no NUL; it is relative.

use super::super::query::{DecodeError, percent_decode, percent_encode};

/// A path beneath the folder, decoded.
#[derive(Debug, PartialEq, Eq)]
pub struct FilePath {
    /// Without a leading or trailing slash; empty for the folder itself.
    pub relative: String,
    /// The request's path ended in a slash, so a folder is meant.
    pub is_folder: bool,
}

/// Why a path names no file.
#[derive(Debug, PartialEq, Eq)]
pub enum BadPath {
    /// A `%` without two hexadecimal digits.
    Escape,
    /// Hidden, or trying to leave.
    Forbidden,
}

impl FilePath {
    /// Reads the path of a request as sent.
    pub fn parse(path: &str) -> Result<FilePath, BadPath> {
        let path = path.strip_prefix('/').ok_or(BadPath::Forbidden)?;
        let (segments, is_folder) = match path.strip_suffix('/') {
            Some(folder) => (folder, true),
            None => (path, path.is_empty()),
        };
        let mut relative = String::with_capacity(segments.len());
        // A lone slash has no segments; "//" has an empty one, which is refused like any other.
        for (index, segment) in segments.split('/').enumerate().filter(|_| !path.is_empty()) {
            let name = percent_decode(segment).map_err(|error| match error {
                DecodeError::BadEscape => BadPath::Escape,
                DecodeError::NotUtf8 => BadPath::Forbidden,
            })?;
            let hidden = name.starts_with('.') && !(index == 0 && name == ".well-known");
            if name.is_empty() || hidden || name.contains(['/', '\0']) {
                return Err(BadPath::Forbidden);
            }
            if index > 0 {
                relative.push('/');
            }
            relative.push_str(&name);
        }
        Ok(FilePath { relative, is_folder })
    }

    /// The path of a file in this folder.
    pub fn join(&self, name: &str) -> String {
        if self.relative.is_empty() { name.to_owned() } else { format!("{}/{name}", self.relative) }
    }

    /// The path with a slash behind it, encoded, for `Location`.
    pub fn as_folder(&self) -> String {
        let mut location = String::from("/");
        for segment in self.relative.split('/') {
            location.push_str(&percent_encode(segment).to_string());
            location.push('/');
        }
        location
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relative(path: &str) -> Result<String, BadPath> {
        FilePath::parse(path).map(|path| path.relative)
    }

    #[test]
    fn paths_are_decoded_segment_by_segment() {
        assert_eq!(relative("/a%20b/c%C3%A9.txt").unwrap(), "a b/cé.txt");
        assert_eq!(FilePath::parse("/").unwrap(), FilePath { relative: String::new(), is_folder: true });
        assert_eq!(FilePath::parse("/a/").unwrap(), FilePath { relative: "a".into(), is_folder: true });
        assert_eq!(relative("/.well-known/x").unwrap(), ".well-known/x");
        assert_eq!(FilePath::parse("/a b/c%5Cd").unwrap().as_folder(), "/a%20b/c%5Cd/");
    }

    #[test]
    fn no_path_leaves_the_folder_or_sees_what_is_hidden() {
        for path in [
            "",
            "a",
            "//",
            "//a",
            "/a//b",
            "/..",
            "/../a",
            "/a/..",
            "/a/../b",
            "/%2e%2e/a",
            "/%2E./a",
            "/.",
            "/a/.",
            "/.env",
            "/a/.git/config",
            "/..%2fa",
            "/a%2f..%2fb",
            "/%2fetc/passwd",
            "/a%00",
            "/%00",
            "/a/.well-known/x",
            "/%ff",
            "/a/ /../b",
        ] {
            assert_eq!(relative(path), Err(BadPath::Forbidden), "{path}");
        }
        assert_eq!(relative("/a%2"), Err(BadPath::Escape));
    }

    proptest! {
        #[test]
        fn what_is_accepted_stays_inside(path in "/([a.%2eEfF/0]|\\PC){0,24}") {
            if let Ok(path) = FilePath::parse(&path) {
                prop_assert!(!path.relative.starts_with('/') && !path.relative.contains('\0'));
                prop_assert!(path.relative.is_empty() || path.relative.split('/').all(|s| !s.is_empty() && s != "." && s != ".."));
                prop_assert_eq!(FilePath::parse(&path.as_folder().replace("//", "/")).unwrap().relative, path.relative);
            }
        }
    }
}
