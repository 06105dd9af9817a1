//! Where data goes: stdout, something that is written to as it is, such as a device or a pipe, or a file that appears
//! under its name only when it is complete and on the disk.
//!
//! Every write is checked, and so is the last one: what did not arrive is a failure.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::exit::Failure;
use super::unfinished::Unfinished;

const BUFFER_BYTES: usize = 256 * 1024;
/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;
/// Names that others left, or are writing, beside the file.
const PARTS_MAX: u32 = 1000;
/// Of a name of 255 bytes this much is in the temporary one.
const STEM_BYTES_MAX: usize = 200;

/// A place for data.
pub enum Output {
    /// Standard output.
    Stdout(io::StdoutLock<'static>),
    /// A device, a pipe, or what another process has open.
    Through(BufWriter<File>),
    /// A file under a temporary name.
    File {
        /// What is written.
        writer: BufWriter<File>,
        /// Where it is until it is complete.
        part: Unfinished,
        /// Where it will be, links resolved.
        target: PathBuf,
        /// Whether a file that is there may go.
        replace: bool,
    },
}

/// What a name stands for.
enum Place {
    Stream(PathBuf),
    File(PathBuf),
}

impl Output {
    /// Opens a place; `-` is stdout. A file that is there is replaced at the end.
    pub fn open(name: &str) -> Result<Output, Failure> {
        Output::open_or_replace(name, true)
    }

    /// Opens a place; a file that holds anything is only replaced if that is said.
    pub fn open_or_replace(name: &str, replace: bool) -> Result<Output, Failure> {
        if name == "-" {
            return Ok(Output::Stdout(io::stdout().lock()));
        }
        let failed = |error: io::Error| Failure::plain(format!("cannot write {name}: {error}"));
        let target = match place(name).map_err(failed)? {
            Place::File(target) => target,
            Place::Stream(path) => {
                let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
                return Ok(Output::Through(BufWriter::with_capacity(BUFFER_BYTES, file)));
            }
        };
        let length = fs::metadata(&target).map(|meta| meta.len()).ok();
        if !replace && length.is_some_and(|length| length > 0) {
            return Err(is_there(name));
        }
        let (file, part) = make_part(&target).map_err(|error| match length {
            Some(_) => Failure::plain(format!(
                "cannot write beside {name}: {error}; a file is replaced as a whole, or written to by way of stdout: > FILE"
            )),
            None => failed(error),
        })?;
        // An empty file is as good as none.
        let replace = replace || length == Some(0);
        Ok(Output::File { writer: BufWriter::with_capacity(BUFFER_BYTES, file), part, target, replace })
    }

    /// Completes the data: after this it is on the disk, under its name.
    pub fn finish(mut self) -> Result<(), Failure> {
        match self.complete() {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(match &self {
                Output::File { target, .. } => is_there(&target.display().to_string()),
                _ => wrote(error),
            }),
            completed => completed.map_err(wrote),
        }
    }

    fn complete(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout(out) => out.flush(),
            Output::Through(writer) => writer.flush(),
            Output::File { writer, part, target, replace } => {
                writer.flush()?;
                // IMPORTANT: the content is synced before the name points to it, and the name after it does.
                writer.get_ref().sync_all()?;
                rename(part.path(), target, *replace)?;
                match File::open(folder_of(target)) {
                    Ok(folder) => folder.sync_all(),
                    // A folder that takes files and shows none.
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

/// A write that failed.
pub fn wrote(error: io::Error) -> Failure {
    Failure::plain(format!("cannot write: {error}"))
}

fn is_there(name: &str) -> Failure {
    Failure::plain(format!("{name} is there already; --force replaces it"))
}

/// Follows links to where a file is, or will be: it is replaced there, and the links stay.
fn place(name: &str) -> io::Result<Place> {
    let mut path = PathBuf::from(name);
    for _ in 0..LINKS_MAX {
        // `/dev/stdout` and its like lead to what is open already, which has no name that could be replaced.
        if folder_of(&path).canonicalize().is_ok_and(|folder| folder.starts_with("/proc")) {
            return Ok(Place::Stream(path));
        }
        let Ok(link) = fs::read_link(&path) else { break };
        path = folder_of(&path).join(link);
    }
    let is_folder = || io::Error::from(ErrorKind::IsADirectory);
    match fs::metadata(&path) {
        Ok(meta) if meta.is_dir() => Err(is_folder()),
        Ok(meta) if meta.is_file() => Ok(Place::File(path)),
        Ok(_) => Ok(Place::Stream(path)),
        Err(error) if error.kind() != ErrorKind::NotFound || path.as_os_str().is_empty() => Err(error),
        Err(_) if path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.file_name().is_none() => Err(is_folder()),
        Err(_) => Ok(Place::File(path)),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new file beside another. A name that is taken is left alone: it may be of a process of the same number that was
/// killed, or that runs in another container.
fn make_part(target: &Path) -> io::Result<(File, Unfinished)> {
    let name = target.file_name().unwrap_or_default();
    let mut stem = name.to_owned();
    if name.len() > STEM_BYTES_MAX {
        let text = name.to_string_lossy();
        stem = text[..text.floor_char_boundary(STEM_BYTES_MAX)].into();
    }
    let process = std::process::id();
    let mut number = 0;
    loop {
        let mut name = stem.clone();
        name.push(if number == 0 { format!(".{process}.part") } else { format!(".{process}-{number}.part") });
        // SECURITY: what is saved is for its owner alone, whatever the umask, and whatever was there before.
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        match Unfinished::make(folder_of(target).join(name), |path| options.open(path)) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && number < PARTS_MAX => number += 1,
            made => return made,
        }
    }
}

fn rename(from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    if replace {
        return fs::rename(from, to);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot do it in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !to.exists() => fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Err(ErrorKind::AlreadyExists.into()),
        renamed => Ok(renamed?),
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(out) => out.write(bytes),
            Output::Through(writer) | Output::File { writer, .. } => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout(out) => out.flush(),
            Output::Through(writer) | Output::File { writer, .. } => writer.flush(),
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
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn write(path: &Path, text: &str, replace: bool) -> Result<(), Failure> {
        let mut output = Output::open_or_replace(path.to_str().unwrap(), replace)?;
        output.write_all(text.as_bytes()).unwrap();
        output.finish()
    }

    #[test]
    fn a_file_appears_when_it_is_complete_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let mut output = Output::open(path.to_str().unwrap()).unwrap();
        output.write_all(b"new").unwrap();
        output.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, "new", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_are_written_through_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("sub/file"), "old").unwrap();
        // One after the other, relative and absolute, to a file that is there and to one that is not yet.
        symlink("sub/file", at("one")).unwrap();
        symlink(at("one"), at("two")).unwrap();
        symlink("sub/new", at("dangling")).unwrap();
        symlink("sub", at("folder")).unwrap();
        for (link, file) in
            [("one", "sub/file"), ("two", "sub/file"), ("dangling", "sub/new"), ("folder/third", "sub/third")]
        {
            write(&at(link), link, true).unwrap();
            assert_eq!(fs::read_to_string(at(file)).unwrap(), link);
            assert!(fs::symlink_metadata(at(file)).unwrap().is_file(), "{link}");
        }
        assert!(["one", "two", "dangling"].iter().all(|link| fs::symlink_metadata(at(link)).unwrap().is_symlink()));
        symlink("round", at("round")).unwrap();
        symlink("none/x", at("nowhere")).unwrap();
        for name in ["", "sub", "new/", "sub/..", "round", "nowhere", "sub/file/x"] {
            let path = if name.is_empty() { PathBuf::new() } else { at(name) };
            assert!(write(&path, "x", true).is_err(), "{name}");
        }
        assert_eq!(fs::read_dir(at("sub")).unwrap().count(), 3);
    }

    #[test]
    fn what_is_there_stays_unless_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        write(&path, "1", false).unwrap();
        assert!(write(&path, "2", false).unwrap_err().message.contains("--force"));
        // One that comes meanwhile is not lost either.
        fs::remove_file(&path).unwrap();
        let output = Output::open_or_replace(path.to_str().unwrap(), false).unwrap();
        fs::write(&path, "meanwhile").unwrap();
        assert!(output.finish().unwrap_err().message.contains("--force"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "meanwhile");
        write(&path, "3", true).unwrap();
        fs::write(&path, "").unwrap();
        write(&path, "4", false).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "4");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_that_is_taken_or_long_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["out".to_owned(), "x".repeat(255), "ü".repeat(127)] {
            let path = folder.path().join(&name);
            let stem = &name[..name.floor_char_boundary(STEM_BYTES_MAX)];
            let stale = folder.path().join(format!("{stem}.{}.part", std::process::id()));
            fs::write(&stale, "of another").unwrap();
            write(&path, "new", false).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(fs::read(&stale).unwrap(), b"of another");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 6);
    }
}
