//! The token of the client commands: from the environment or a file.
//!
//! SECURITY: never from an argument: arguments show in the process list.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::complain;
use super::exit::Failure;
use super::parse::Invocation;

/// A longer file is no token.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// The token that the options and the environment name, if they name any.
pub fn find_token(invocation: &Invocation) -> Result<Option<String>, Failure> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let option = invocation.text("token-file")?;
    if option.is_none()
        && let Some(token) = variable("LARDER_TOKEN")
    {
        return checked(token.as_encoded_bytes(), "LARDER_TOKEN").map(Some);
    }
    let file = option.map(Into::into).or_else(|| variable("LARDER_TOKEN_FILE"));
    file.map(|file| read(Path::new(&file))).transpose()
}

fn read(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let failed = |error| Failure::plain(format!("cannot read the token file {shown}: {error}"));
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    // As the server has it of its own tokens file. A warning: scripts that run must go on running.
    if meta.is_file() && meta.mode() & 0o037 != 0 {
        let mode = meta.mode() & 0o777;
        complain(&format!("note: the token file {shown} has mode {mode:04o}, open to others: chmod 0600 {shown}"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    checked(&bytes, &shown.to_string())
}

/// The one word that is there. What editors and shells put before it, such as a byte order mark, is no part of it.
fn checked(bytes: &[u8], source: &str) -> Result<String, Failure> {
    let wide = |from: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes[2..].chunks_exact(2).map(|pair| from([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    let text = match bytes {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    };
    let no = |why: &str| Err(Failure::plain(format!("{source} holds no token: {why}")));
    let token = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    match token {
        "" => no("it is empty"),
        token if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(token.to_owned()),
        token if token.contains(char::is_whitespace) => {
            no("it is more than one word; only the token itself belongs there")
        }
        _ => no("a token is of letters, digits and signs of ASCII alone"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word_whatever_an_editor_put_around_it() {
        let wide =
            |order: fn(u16) -> [u8; 2]| -> Vec<u8> { "\u{feff}ldr_a_b\r\n".encode_utf16().flat_map(order).collect() };
        for bytes in [
            b"ldr_a_b".to_vec(),
            b"\xef\xbb\xbfldr_a_b\r\n".to_vec(),
            b"\n\t ldr_a_b \n\n".to_vec(),
            b"\xef\xbb\xbf\n\xef\xbb\xbfldr_a_b".to_vec(),
            wide(u16::to_le_bytes),
            wide(u16::to_be_bytes),
        ] {
            assert_eq!(checked(&bytes, "x").unwrap(), "ldr_a_b", "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_token_is_said() {
        for (bytes, part) in [
            (&b""[..], "it is empty"),
            (b"\xef\xbb\xbf\r\n", "it is empty"),
            (b"\xff\xfe", "it is empty"),
            (b"Bearer ldr_a_b", "more than one word"),
            (b"a\r\nHost: b", "more than one word"),
            (b"ldr_\xff", "ASCII"),
            (b"ldr_a\0b", "ASCII"),
            ("ldr_ü".as_bytes(), "ASCII"),
        ] {
            let said = checked(bytes, "x").unwrap_err().message;
            assert!(said.contains("x holds no token") && said.contains(part), "{bytes:?}: {said}");
        }
    }
}
