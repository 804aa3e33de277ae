//! The files of the state directory: checkpoints, leases, records and pending teardowns.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use contrail_mesos_api::files::read_regular_file;
use serde_json::{Map, Value, json};

/// The most files that are listed.
const MAX_FILES: usize = 50_000;
/// The most bytes of a file whose contents are shown.
const MAX_FILE_BYTES: u64 = 256 << 10;
/// The most bytes of all contents.
const MAX_BYTES: u64 = 32 << 20;
/// The deepest directory below the state directory.
const MAX_DEPTH: usize = 8;

/// Every file with its size, mode, age and, if it is JSON, its contents. Blocks.
pub(super) fn read(state_dir: &Path) -> Result<Value, String> {
    let mut files = StateFiles {
        root: state_dir,
        files: Map::new(),
        bytes: 0,
        left_out: 0,
    };
    files
        .add(state_dir, 0)
        .map_err(|error| format!("{}: {error}", state_dir.display()))?;
    Ok(json!({
        "state_dir": state_dir.display().to_string(),
        "left_out": files.left_out,
        "files": files.files,
    }))
}

struct StateFiles<'a> {
    root: &'a Path,
    files: Map<String, Value>,
    bytes: u64,
    left_out: usize,
}

impl StateFiles<'_> {
    fn add(&mut self, directory: &Path, depth: usize) -> std::io::Result<()> {
        let mut entries: Vec<_> = fs::read_dir(directory)?.flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            // Of a link itself. It may be gone.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if self.files.len() >= MAX_FILES {
                self.left_out += 1;
                continue;
            }
            if metadata.is_dir() {
                if depth < MAX_DEPTH {
                    let _ = self.add(&path, depth + 1);
                }
                continue;
            }
            let name = path.strip_prefix(self.root).unwrap_or(&path);
            let is_json = name
                .extension()
                .is_some_and(|extension| extension == "json")
                || name.starts_with("networks");
            let (mut contents, mut error) = (Value::Null, None);
            if is_json && metadata.len() > MAX_FILE_BYTES {
                error = Some("is too long".to_owned());
            } else if is_json && self.bytes + metadata.len() > MAX_BYTES {
                self.left_out += 1;
            } else if is_json {
                let read = read_regular_file(&path).map_err(|error| error.to_string());
                self.bytes += metadata.len();
                match read.and_then(|bytes| {
                    serde_json::from_slice(&bytes).map_err(|error| format!("is no JSON: {error}"))
                }) {
                    Ok(json) => contents = json,
                    Err(problem) => error = Some(problem),
                }
            }
            let entry = json!({
                "bytes": metadata.len(),
                "mode": format!("{:o}", metadata.mode()),
                "owner": metadata.uid(),
                "modified": metadata.mtime(),
                "contents": contents,
                "error": error,
            });
            self.files.insert(name.display().to_string(), entry);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_listed_and_json_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("containers/a/intent.json", "{\"version\":1}");
        write("containers/b/intent.json", "{");
        write("containers/a/hosts", "127.0.0.1 localhost");
        write("networks/blue/10.0.0.2", "{\"container\":[\"a\"]}");
        symlink("/etc/shadow", directory.path().join("link.json")).unwrap();
        let state = read(directory.path()).unwrap();
        let file = |name: &str| &state["files"][name];
        assert_eq!(
            file("containers/a/intent.json")["contents"],
            json!({"version": 1})
        );
        assert!(file("containers/b/intent.json")["error"].is_string());
        assert_eq!(file("containers/a/hosts")["contents"], Value::Null);
        assert_eq!(
            file("networks/blue/10.0.0.2")["contents"]["container"],
            json!(["a"])
        );
        assert_eq!(file("link.json")["contents"], Value::Null);
        assert!(file("link.json")["error"].is_string(), "{state:#}");
        assert!(read(&directory.path().join("none")).is_err());
    }
}
