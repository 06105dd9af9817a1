//! A token: who it is, what it may do, and the form its secret travels in.
//!
//! Invariant: the secret exists in memory only while it is made or checked; what is kept is its SHA-256. A secret has
//! 256 random bits, so a plain hash is enough: there is nothing to guess.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What a token may do; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Scope {
    /// Read values, lists, metrics and figures.
    Read,
    /// Also change and delete values.
    Write,
    /// Also export and import the whole store.
    Admin,
}

impl Scope {
    /// The name of a scope.
    pub fn parse(text: &str) -> Option<Scope> {
        [Scope::Read, Scope::Write, Scope::Admin].into_iter().find(|scope| scope.as_str() == text)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Write => "write",
            Scope::Admin => "admin",
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = String;

    fn try_from(text: String) -> Result<Scope, String> {
        Scope::parse(&text).ok_or_else(|| "a scope is read, write or admin".to_owned())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A token as it is kept: a line of the tokens file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The public part, by which it is found and named in logs.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The SHA-256 of the secret.
    #[serde(with = "hex")]
    pub sha256: [u8; 32],
    /// What it may do.
    pub scope: Scope,
    /// The namespaces it is for; none means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// When it was made, in seconds since 1970 by the clock of then.
    pub created: u64,
    /// When it ends, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

const PREFIX: &str = "ldr_";

impl Token {
    /// Makes a token; the text is its only copy. Fails if the kernel gives no random bytes.
    pub fn generate(
        name: &str,
        scope: Scope,
        namespaces: Vec<String>,
        created: u64,
    ) -> Result<(Token, String), String> {
        let mut random = [0u8; 6 + 32];
        getrandom::fill(&mut random).map_err(|error| format!("no random bytes: {error}"))?;
        let (id, secret) = random.split_at(6);
        let (id, secret) = (hex::encode(id), URL_SAFE_NO_PAD.encode(secret));
        let text = format!("{PREFIX}{id}_{secret}");
        let sha256 = digest(&secret);
        Ok((Token { id, name: name.to_owned(), sha256, scope, namespaces, created, expires: None }, text))
    }

    /// Whether a secret is this token's. Takes the same time wherever they differ.
    pub fn is_secret(&self, secret: &str) -> bool {
        digest(secret).ct_eq(&self.sha256).into()
    }
}

/// The id and the secret of a token's text, if it has the form of one.
pub fn split(text: &str) -> Option<(&str, &str)> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    (!id.is_empty() && (32..=128).contains(&secret.len()) && plain(id) && plain(secret)).then_some((id, secret))
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

mod hex {
    //! Bytes as lower-case hexadecimal digits, for the tokens file.

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn encode(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom("sha256 has 64 hexadecimal digits");
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut bytes = [0u8; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_knows_its_secret_and_no_other() {
        let (token, text) = Token::generate("pi", Scope::Write, Vec::new(), 1).unwrap();
        let (other, other_text) = Token::generate("pi", Scope::Write, Vec::new(), 1).unwrap();
        let (id, secret) = split(&text).unwrap();
        assert_eq!(id, token.id);
        assert!(token.is_secret(secret));
        assert!(!token.is_secret(split(&other_text).unwrap().1));
        assert!(!other.is_secret(secret));
        assert!(!token.is_secret(""));
        assert_ne!(token.id, other.id);
    }

    #[test]
    fn only_texts_with_the_form_of_a_token_are_split() {
        let secret = "s".repeat(43);
        assert!(split(&format!("ldr_abc_{secret}")).is_some());
        for text in [
            "",
            "ldr_",
            "ldr_abc",
            "ldr_abc_",
            "ldr_abc_short",
            &format!("abc_{secret}"),
            &format!("ldr__{secret}"),
            &format!("ldr_a b_{secret}"),
            &format!("ldr_a_{}", "s".repeat(129)),
        ] {
            assert_eq!(split(text), None, "{text}");
        }
    }

    #[test]
    fn scopes_include_those_before() {
        assert!(Scope::Admin > Scope::Write && Scope::Write > Scope::Read);
        assert_eq!(Scope::parse("admin"), Some(Scope::Admin));
        assert_eq!(Scope::parse("root"), None);
    }

    #[test]
    fn a_line_of_the_file_holds_no_secret_and_reads_back() {
        let (token, text) = Token::generate("pi", Scope::Read, vec!["home".into()], 7).unwrap();
        let line = serde_json::to_string(&token).unwrap();
        assert!(!line.contains(split(&text).unwrap().1));
        assert_eq!(serde_json::from_str::<Token>(&line).unwrap(), token);
        assert!(serde_json::from_str::<Token>(&line.replace("\"name\"", "\"nmae\"")).is_err());
        let scope = |text: &str| serde_json::from_str::<Scope>(text);
        assert_eq!(scope("\"read\"").unwrap(), Scope::Read);
        for text in ["{\"read\":null}", "[\"read\"]", "\"Read\"", "0", "null"] {
            assert!(scope(text).is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Token>(&line.replace("\"sha256\":\"", "\"sha256\":\"zz")).is_err());
    }
}
