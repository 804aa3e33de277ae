//! Reading and writing files of directories in which others may have put something else: a pipe, a device, a
//! link, or a file without end.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

/// More than any file that is read with these functions has.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Reads a regular file that is no symbolic link. Never waits: opening a pipe does not block.
pub fn read_regular_file(path: &Path) -> io::Result<Vec<u8>> {
    read(path, OFlag::O_NOFOLLOW)
}

/// Reads a regular file, also by a symbolic link. Never waits: opening a pipe does not block.
pub fn read_regular_or_linked_file(path: &Path) -> io::Result<Vec<u8>> {
    read(path, OFlag::empty())
}

/// Replaces the contents of a regular file that is no symbolic link, in place; creates it if it does
/// not exist. Never waits: opening a pipe does not block.
pub fn write_regular_file(path: &Path, contents: &[u8]) -> io::Result<()> {
    // What this call creates is a regular file, so only what exists is looked at.
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => file.write_all(contents),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => overwrite(path, contents),
        Err(error) => Err(error),
    }
}

fn overwrite(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits())
        .open(path)
        .map_err(explain)?;
    if !file.metadata()?.is_file() {
        return Err(not_regular());
    }
    file.write_all(contents)
}

/// Names the reason in place of the kernel's words for a symbolic link and for a pipe without a
/// reader.
fn explain(error: io::Error) -> io::Error {
    let errno = error.raw_os_error().map(Errno::from_raw);
    if matches!(errno, Some(Errno::ELOOP | Errno::ENXIO)) {
        not_regular()
    } else {
        error
    }
}

/// Opens a regular file that is no symbolic link. Never waits: opening a pipe does not block.
pub fn open_regular_file(path: &Path) -> io::Result<File> {
    open(path, OFlag::O_NOFOLLOW)
}

fn read(path: &Path, flags: OFlag) -> io::Result<Vec<u8>> {
    let file = open(path, flags)?;
    let metadata = file.metadata()?;
    if metadata.len() > MAX_FILE_BYTES {
        return Err(io::Error::new(
            ErrorKind::FileTooLarge,
            format!("the file has more than {MAX_FILE_BYTES} bytes"),
        ));
    }
    let mut contents = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut contents)?;
    Ok(contents)
}

fn open(path: &Path, flags: OFlag) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | flags).bits())
        .open(path)
        .map_err(explain)?;
    if !file.metadata()?.is_file() {
        return Err(not_regular());
    }
    Ok(file)
}

fn not_regular() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        assert_eq!(read_regular_file(&path("file")).unwrap(), b"text");
        symlink(path("file"), path("link")).unwrap();
        assert_eq!(read_regular_or_linked_file(&path("link")).unwrap(), b"text");
        mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
        symlink(path("pipe"), path("link to a pipe")).unwrap();
        for name in ["link", "pipe", "link to a pipe", "."] {
            let error = read_regular_file(&path(name)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}: {error}");
        }
        for name in ["pipe", "link to a pipe", "."] {
            let error = read_regular_or_linked_file(&path(name)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}: {error}");
        }
        for name in ["link", "pipe", "link to a pipe"] {
            let error = write_regular_file(&path(name), b"x").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}: {error}");
        }
        for contents in [b"a longer text".as_slice(), b"short"] {
            write_regular_file(&path("file"), contents).unwrap();
            assert_eq!(read_regular_file(&path("file")).unwrap(), contents);
        }
        let error = read_regular_file(&path("none")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
