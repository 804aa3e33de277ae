//! The official Python client of the VNC API drives the simulated server.
//!
//! The test installs the client from the Python package registry into a virtual environment under
//! `target/`, and fails where it cannot.

use std::path::{Path, PathBuf};
use std::process::Command;

use contrail_mesos_sim::vnc::{Auth, Keystone, Options, Server};

/// The client, and the packages that it needs but does not declare, at tested versions.
const PACKAGES: [&str; 4] = [
    "contrail-api-client==2005",
    "future==1.0.0",
    "requests==2.34.2",
    "six==1.17.0",
];

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|problem| panic!("{command:?} cannot be run: {problem}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The Python of a virtual environment that has the client.
fn python() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let home = target.join("vnc-client");
    let python = home.join("bin/python");
    let installed = home.join("installed");
    if std::fs::read_to_string(&installed).ok() != Some(PACKAGES.join(" ")) {
        // Replaces an environment that an earlier run left incomplete.
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&home));
        let mut pip = Command::new(&python);
        run(pip
            .args(["-m", "pip", "install", "--quiet", "--no-input"])
            .args(PACKAGES));
        std::fs::write(&installed, PACKAGES.join(" ")).unwrap();
    }
    python
}

#[tokio::test(flavor = "multi_thread")]
async fn official_python_client_is_served() {
    let python = tokio::task::spawn_blocking(python).await.unwrap();
    let (address, open) = Server::start(Options::default()).await.unwrap();
    let options = Options {
        auth: Auth::Keystone(Keystone::with_admin("admin", "secret", "admin")),
        ..Options::default()
    };
    let (guarded_address, guarded) = Server::start(options).await.unwrap();
    let before = [open.counts(), guarded.counts()];
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vnc_client.py");
    let output = tokio::task::spawn_blocking(move || {
        run(Command::new(python)
            .arg(script)
            .arg(address.ip().to_string())
            .arg(address.port().to_string())
            .arg(guarded_address.port().to_string()))
    })
    .await
    .unwrap();
    assert!(output.ends_with("done\n"), "{output}");
    assert_eq!([open.counts(), guarded.counts()], before);
    assert_eq!(
        [open.addresses(), guarded.addresses()],
        [const { Vec::new() }; 2]
    );
    let log = open.log();
    assert!(
        log.iter()
            .all(|entry| entry.performed && entry.status.is_some())
    );
}
