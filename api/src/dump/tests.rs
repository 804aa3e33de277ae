use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

const SECRET: &str = "Planted-s3cret-0123456789";

fn options(path: &Path) -> DumpOptions {
    DumpOptions {
        path: path.to_owned(),
        max_bytes: MIN_ARCHIVE_BYTES,
        program: "test",
        version: "1.2.3",
    }
}

fn text(name: &str, contents: impl Into<Vec<u8>>) -> Part {
    let contents = contents.into();
    Part::new(name, Format::Text, async move { Ok(contents.into()) })
}

/// The files of an archive, by their names without the directory.
fn unpack(path: &Path) -> BTreeMap<String, String> {
    let file = fs::File::open(path).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        assert_eq!(entry.header().mode().unwrap(), 0o600);
        let name = entry.path().unwrap().display().to_string();
        let mut contents = String::new();
        entry.read_to_string(&mut contents).unwrap();
        let (directory, name) = name.split_once('/').unwrap();
        assert!(directory.starts_with("test-dump-"));
        (name.to_owned(), contents)
    });
    entries.collect()
}

fn redactor() -> Redactor {
    let mut redactor = Redactor::default();
    redactor.add(SECRET);
    redactor
}

#[tokio::test]
async fn part_that_fails_does_not_fail_the_dump() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dump.tar.gz");
    let parts = vec![
        text("a/good.txt", "all well"),
        Part::new("error.txt", Format::Text, async {
            Err(format!("cannot read {SECRET}"))
        }),
        Part::new("panic.txt", Format::Text, async { panic!("expected") }),
        Part::new("no.json", Format::Json, async { Ok(b"{".to_vec().into()) }),
        Part::file("missing.txt", Format::Text, "/nonexistent"),
        Part::file("device.txt", Format::Text, "/dev/zero"),
        Part::program(
            "failed.txt",
            Format::Text,
            "/bin/sh",
            &["-c", "echo x; exit 3"],
        ),
        Part::program("silent.txt", Format::Text, "/bin/false", &[]),
    ];
    let dump = write(&options(&path), parts, &redactor()).await.unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(dump.bytes, fs::metadata(&path).unwrap().len());
    let files = unpack(&path);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["a/good.txt", "failed.txt", "manifest.json"]);
    assert_eq!(files["failed.txt"], "x\n");
    let failed = dump.files.iter().filter(|file| file.error.is_some());
    assert_eq!(failed.count(), 7);
    let manifest: Value = serde_json::from_str(&files["manifest.json"]).unwrap();
    assert_eq!(manifest["files"].as_array().unwrap().len(), 8);
    assert_eq!(
        manifest["files"][0],
        json!({"file": "a/good.txt", "bytes": 8, "truncated": false, "error": null})
    );
    assert!(!files["manifest.json"].contains(SECRET));
}

#[tokio::test]
async fn what_exists_is_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let victim = directory.path().join("victim");
    fs::write(&victim, "keep").unwrap();
    let link = directory.path().join("link");
    symlink(&victim, &link).unwrap();
    let dangling = directory.path().join("dangling");
    symlink(directory.path().join("nothing"), &dangling).unwrap();
    for path in [&victim, &link, &dangling] {
        let error = write(&options(path), vec![], &redactor()).await;
        assert!(matches!(error, Err(DumpError::Exists(_))), "{error:?}");
    }
    assert_eq!(fs::read(&victim).unwrap(), b"keep");
    assert!(!directory.path().join("nothing").exists());
}

#[tokio::test]
async fn archive_is_bounded_whatever_its_parts_are() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dump.tar.gz");
    // It cannot be compressed.
    let mut state = 1_u64;
    let mut noise = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(33 + u8::try_from((state >> 33) % 90).unwrap())
    };
    let noise: String = (0..450_000).map(|_| noise()).collect();
    let parts = (0..3)
        .map(|number| text(&format!("{number}.txt"), noise.clone()))
        .collect();
    let dump = write(&options(&path), parts, &redactor()).await.unwrap();
    assert!(dump.bytes <= MIN_ARCHIVE_BYTES, "{}", dump.bytes);
    let outcomes: Vec<_> = dump
        .files
        .iter()
        .map(|file| (file.truncated, file.error.is_some()))
        .collect();
    assert_eq!(outcomes, [(false, false), (true, false), (false, true)]);
    assert_eq!(unpack(&path).len(), 3);
}

#[test]
fn text_that_was_cut_has_no_part_of_a_secret() {
    let redactor = redactor();
    for cut in 1..SECRET.len() {
        let head = format!("{}{}", "x\n".repeat(CUT_BYTES), &SECRET[..cut]);
        let contents = Contents {
            bytes: head.into_bytes(),
            is_cut: true,
            problem: None,
        };
        let (text, is_cut) = redact(contents, Format::Text, &redactor).unwrap();
        assert!(
            is_cut && text.trim_end_matches(['x', '\n']).is_empty(),
            "{text}"
        );
        let tail = format!("{}\nnext line\n", &SECRET[cut..]);
        let contents = Contents {
            bytes: tail.into_bytes(),
            is_cut: true,
            problem: None,
        };
        let (text, _) = redact(contents, Format::Log, &redactor).unwrap();
        assert_eq!(text, "next line\n");
    }
    let contents = Contents {
        bytes: b"{\"a\":".to_vec(),
        is_cut: true,
        problem: None,
    };
    assert!(redact(contents, Format::Json, &redactor).is_err());
}

#[test]
fn long_parts_keep_their_beginning_or_their_end() {
    let long = "ä".repeat(10);
    assert_eq!(fit(long.clone(), Format::Text, 5), ("ää".to_owned(), true));
    assert_eq!(fit(long.clone(), Format::Log, 5), ("ää".to_owned(), true));
    assert_eq!(fit(long.clone(), Format::Text, 20), (long, false));
}

#[test]
fn size_is_parsed_with_its_unit() {
    assert_eq!(parse_size("16M"), Ok(16 << 20));
    assert_eq!(parse_size("1g"), Ok(1 << 30));
    assert_eq!(parse_size("2097152"), Ok(2 << 20));
    for text in [
        "",
        "M",
        "1K",
        "0",
        "-1M",
        "99999999999999999999G",
        "99999999999G",
        "1.5M",
        "ä",
    ] {
        assert!(parse_size(text).is_err(), "{text}");
    }
}
