//! The archive: a compressed tar file that is bounded, and new.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// What the manifest and the end of the archive may need.
const RESERVED_BYTES: u64 = 256 << 10;
/// The header of a file, and what fills up its last block.
const HEADER_BYTES: u64 = 2 * 512;
const FILE_MODE: u32 = 0o600;

/// An archive that is being written. It is removed if it is not finished.
pub(super) struct Archive {
    path: PathBuf,
    builder: Option<tar::Builder<GzEncoder<File>>>,
    directory: String,
    modified: u64,
    /// How much there is room for.
    left: u64,
}

impl Archive {
    /// Creates the archive, which must not exist, for its owner alone. Its files are in `directory`.
    pub(super) fn create(
        path: &Path,
        directory: &str,
        modified: u64,
        max_bytes: u64,
    ) -> io::Result<Self> {
        // Never opens what exists, nor what a symbolic link points to.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(path)?;
        Ok(Self {
            path: path.to_owned(),
            builder: Some(tar::Builder::new(GzEncoder::new(
                file,
                Compression::default(),
            ))),
            directory: directory.to_owned(),
            modified,
            left: max_bytes.saturating_sub(RESERVED_BYTES),
        })
    }

    /// How many bytes a file may have now.
    pub(super) fn left(&self) -> usize {
        let left = self.left.saturating_sub(HEADER_BYTES);
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// Adds a file.
    pub(super) fn add(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        let size = contents.len() as u64;
        self.left = self.left.saturating_sub(size + HEADER_BYTES);
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(FILE_MODE);
        header.set_mtime(self.modified);
        let path = format!("{}/{name}", self.directory);
        let builder = self.builder.as_mut();
        builder.map_or(Ok(()), |builder| {
            builder.append_data(&mut header, path, contents)
        })
    }

    /// Completes the archive, and returns its size.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        let Some(builder) = self.builder.take() else {
            return Ok(0);
        };
        let finish = || {
            let mut file = builder.into_inner()?.finish()?;
            file.flush()?;
            // A full disk may say so only now.
            file.sync_all()?;
            Ok(file.metadata()?.len())
        };
        let finished = finish();
        if finished.is_err() {
            let _ = std::fs::remove_file(&self.path);
        }
        finished
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if self.builder.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
