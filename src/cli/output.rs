//! Where data goes: stdout, or a file that appears under its name only when it is complete and on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::exit::Failure;

/// A place for data.
pub enum Output {
    /// Standard output.
    Stdout(io::StdoutLock<'static>),
    /// A file under a temporary name.
    File {
        /// What is written.
        writer: BufWriter<File>,
        /// Where it is until it is complete.
        temporary: PathBuf,
        /// Where it will be.
        path: PathBuf,
    },
}

impl Output {
    /// Opens a place; `-` is stdout.
    pub fn open(name: &str) -> Result<Output, Failure> {
        if name == "-" {
            return Ok(Output::Stdout(io::stdout().lock()));
        }
        let path = PathBuf::from(name);
        let mut temporary = path.file_name().unwrap_or_default().to_owned();
        temporary.push(format!(".{}.part", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = file.map_err(|error| Failure::plain(format!("cannot write {}: {error}", temporary.display())))?;
        Ok(Output::File { writer: BufWriter::with_capacity(256 * 1024, file), temporary, path })
    }

    /// Completes the data: after this it is on the disk, under its name.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.complete().map_err(|error| Failure::plain(format!("cannot write: {error}")))
    }

    fn complete(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout(out) => out.flush(),
            Output::File { writer, temporary, path } => {
                writer.flush()?;
                // IMPORTANT: the content is synced before the name points to it, and the name after it does.
                writer.get_ref().sync_all()?;
                fs::rename(&*temporary, &*path)?;
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                File::open(folder)?.sync_all()
            }
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(out) => out.write(bytes),
            Output::File { writer, .. } => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout(out) => out.flush(),
            Output::File { writer, .. } => writer.flush(),
        }
    }
}

impl Drop for Output {
    /// What is not complete does not stay. After `finish` the temporary name is gone already.
    fn drop(&mut self) {
        if let Output::File { temporary, .. } = self {
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Opens what is to be read; `-` is stdin.
pub fn open_input(name: &str) -> Result<Box<dyn io::Read>, Failure> {
    if name == "-" {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(name).map_err(|error| Failure::plain(format!("cannot read {name}: {error}")))?;
    Ok(Box::new(io::BufReader::with_capacity(256 * 1024, file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_complete_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "old").unwrap();
        let mut output = Output::open(path.to_str().unwrap()).unwrap();
        output.write_all(b"new").unwrap();
        output.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let mut output = Output::open(path.to_str().unwrap()).unwrap();
        output.write_all(b"new").unwrap();
        output.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
