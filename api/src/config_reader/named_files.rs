//! Opens the files that a configuration names: for a check, which must find what a start would find.

use std::io::ErrorKind;
use std::path::Path;

use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;

use super::{Severity, read_file, secret_file_warning};
use crate::agent_api::read_token;
use crate::http::tls::{Identity, certificates, private_key};

/// Something about a file that a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFinding {
    /// How grave it is.
    pub severity: Severity,
    /// The key, as it was given.
    pub key: String,
    /// What is wrong with the file.
    pub message: String,
}

/// Checks of files, and what they found. All block.
#[derive(Debug)]
pub struct NamedFiles {
    is_offline: bool,
    findings: Vec<FileFinding>,
}

impl NamedFiles {
    /// No findings yet. Offline, it is no problem that a file is not there.
    #[must_use]
    pub fn new(is_offline: bool) -> Self {
        Self {
            is_offline,
            findings: vec![],
        }
    }

    /// What was found, in the order of the checks.
    #[must_use]
    pub fn findings(self) -> Vec<FileFinding> {
        self.findings
    }

    /// Whether a problem was found.
    #[must_use]
    pub fn has_problems(&self) -> bool {
        let mut findings = self.findings.iter();
        findings.any(|finding| finding.severity == Severity::Problem)
    }

    /// Whether a file is not there, which is no problem offline.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        let mut findings = self.findings.iter();
        findings.any(|finding| finding.severity == Severity::Note)
    }

    fn add(&mut self, severity: Severity, key: &str, message: String) {
        self.findings.push(FileFinding {
            severity,
            key: key.to_owned(),
            message,
        });
    }

    fn problem(&mut self, key: &str, message: String) {
        self.add(Severity::Problem, key, message);
    }

    /// Whether a file can be opened. A pipe is not, which would wait for a writer.
    fn is_there(&mut self, key: &str, path: &Path) -> bool {
        let shown = path.display();
        match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => {
                self.problem(key, format!("{shown} is not a regular file"));
                false
            }
            Err(error) if self.is_offline && is_absent(&error) => {
                self.add(Severity::Note, key, absent(path));
                false
            }
            // Opening a file that is missing says what should be in it.
            _ => true,
        }
    }

    /// A file with the token that agents and managers share.
    pub fn token(&mut self, key: &str, path: &Path) {
        if self.is_there(key, path) {
            if let Err(error) = read_token(path) {
                self.problem(key, error.to_string());
            }
            self.mode(key, path);
        }
    }

    /// A file with any other secret, which must not be empty.
    pub fn secret(&mut self, key: &str, path: &Path) {
        if self.is_there(key, path) {
            match read_file(path) {
                Ok(text) if text.trim().is_empty() => {
                    self.problem(key, format!("{} is empty", path.display()));
                }
                Ok(_) => {}
                Err(error) => {
                    self.problem(key, format!("cannot read {}: {error}", path.display()));
                }
            }
            self.mode(key, path);
        }
    }

    /// A PEM file with the certificates of authorities.
    pub fn authorities(&mut self, key: &str, path: &Path) {
        if self.is_there(key, path)
            && let Err(error) = certificates(path)
        {
            self.problem(key, error.to_string());
        }
    }

    /// A certificate and its key.
    pub fn identity(&mut self, certificate_key: &str, key_key: &str, identity: &Identity) {
        let Identity { certificate, key } = identity;
        let mut chain = None;
        if self.is_there(certificate_key, certificate) {
            match certificates(certificate) {
                Ok(found) => chain = Some(found),
                Err(error) => self.problem(certificate_key, error.to_string()),
            }
        }
        let mut private = None;
        if self.is_there(key_key, key) {
            match private_key(key) {
                Ok(found) => private = Some(found),
                Err(error) => self.problem(key_key, error.to_string()),
            }
            self.mode(key_key, key);
        }
        if let (Some(chain), Some(private)) = (chain, private)
            && let Err(error) =
                CertifiedKey::from_der(chain, private, &aws_lc_rs::default_provider())
        {
            self.problem(
                certificate_key,
                format!(
                    "{} does not belong to the key {}: {error}",
                    certificate.display(),
                    key.display()
                ),
            );
        }
    }

    fn mode(&mut self, key: &str, path: &Path) {
        if let Some(warning) = secret_file_warning(path) {
            self.add(Severity::Warning, key, warning);
        }
    }
}

/// Whether a file is not on this host.
pub(super) fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// What is said of a file that is not on this host.
pub(super) fn absent(path: &Path) -> String {
    format!("{} is not here, and was not checked", path.display())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// The keys of the findings in a directory with a few files.
    fn keys(
        is_offline: bool,
        check: impl FnOnce(&mut NamedFiles, &Path),
    ) -> Vec<(Severity, String)> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let write = |name: &str, text: &str| {
            fs::write(path.join(name), text).expect("a file");
            let mode = fs::Permissions::from_mode(if name == "open" { 0o644 } else { 0o600 });
            fs::set_permissions(path.join(name), mode).expect("the mode");
        };
        let own = rcgen::generate_simple_self_signed(["a".to_owned()]).expect("a certificate");
        let other = rcgen::KeyPair::generate().expect("a key");
        write("certificate", &own.cert.pem());
        write("key", &own.signing_key.serialize_pem());
        write("other-key", &other.serialize_pem());
        write("token", "0123456789abcdef");
        write("open", "0123456789abcdef");
        write("empty", " \n");
        let mut files = NamedFiles::new(is_offline);
        check(&mut files, path);
        let findings = files.findings().into_iter();
        findings
            .map(|finding| (finding.severity, finding.key))
            .collect()
    }

    fn identity(path: &Path, certificate: &str, key: &str) -> Identity {
        Identity {
            certificate: path.join(certificate),
            key: path.join(key),
        }
    }

    fn found(severity: Severity, key: &str) -> (Severity, String) {
        (severity, key.to_owned())
    }

    #[test]
    fn good_files_have_no_findings() {
        let found = keys(false, |files, path| {
            files.token("t", &path.join("token"));
            files.secret("s", &path.join("token"));
            files.authorities("a", &path.join("certificate"));
            files.identity("c", "k", &identity(path, "certificate", "key"));
        });
        assert_eq!(found, []);
    }

    #[test]
    fn what_cannot_be_used_is_a_problem_of_its_key() {
        let found_keys = keys(false, |files, path| {
            files.token("t", &path.join("empty"));
            files.secret("s", &path.join("empty"));
            files.authorities("a", &path.join("token"));
            files.authorities("directory", path);
            files.identity("c", "k", &identity(path, "certificate", "other-key"));
            files.identity("c2", "k2", &identity(path, "key", "certificate"));
        });
        let expected = ["t", "s", "a", "directory", "c", "c2", "k2"];
        assert_eq!(
            found_keys,
            expected.map(|key| found(Severity::Problem, key))
        );
    }

    #[test]
    fn absent_file_is_a_note_offline_only() {
        for (is_offline, severity) in [(true, Severity::Note), (false, Severity::Problem)] {
            let found_keys = keys(is_offline, |files, path| {
                files.token("t", &path.join("none"));
                files.secret("s", &path.join("token/none"));
                files.authorities("a", &path.join("none"));
                files.identity("c", "k", &identity(path, "none", "none"));
            });
            let expected = ["t", "s", "a", "c", "k"];
            assert_eq!(found_keys, expected.map(|key| found(severity, key)));
        }
    }

    #[test]
    fn secret_that_everyone_can_read_is_a_warning() {
        let found_keys = keys(true, |files, path| files.token("t", &path.join("open")));
        assert_eq!(found_keys, [found(Severity::Warning, "t")]);
    }
}
