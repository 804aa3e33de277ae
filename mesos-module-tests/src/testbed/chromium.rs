//! A page as the real Chromium sees it, on a host of the testbed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::testbed::Host;

/// What a browser made of a page.
pub struct RenderedPage {
    /// The document after it was loaded.
    pub dom: String,
    /// What it complained of.
    pub console: Vec<String>,
    /// The screenshot.
    pub screenshot: PathBuf,
}

/// Where screenshots are kept.
fn screenshots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/page")
}

/// Runs Chromium on a host, and returns its output and its errors.
pub fn run(host: &Host, arguments: &[&str], url: &str) -> Result<(String, String)> {
    let profile = host.directory().join("chromium");
    let output = host
        .command("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
        ])
        .args(["--no-first-run", "--disable-background-networking"])
        .args([
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
        ])
        .args([
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            "--v=0",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .env("HOME", host.directory())
        .args(arguments)
        .arg(url)
        .output()
        .context("cannot run chromium; is the Debian package installed?")?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success(),
        "chromium: {}: {errors}",
        output.status
    );
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((printed, errors))
}

/// Opens a page in a window of that size, and keeps a screenshot of that name.
pub fn open(host: &Host, url: &str, size: &str, name: &str) -> Result<RenderedPage> {
    fs::create_dir_all(screenshots())?;
    let screenshot = screenshots().canonicalize()?.join(format!("{name}.png"));
    let size = format!("--window-size={size}");
    let keep = format!("--screenshot={}", screenshot.display());
    run(host, &[&size, &keep], url)?;
    ensure!(fs::metadata(&screenshot)?.len() > 0, "no screenshot");
    let (dom, errors) = run(host, &[&size, "--dump-dom"], url)?;
    // Chromium's own pages log too, for example when the machine is slow.
    let console = errors
        .lines()
        .filter(|line| line.contains("CONSOLE") && !line.contains("source: chrome://"));
    Ok(RenderedPage {
        console: console.map(str::to_owned).collect(),
        dom,
        screenshot,
    })
}

/// How wide a page is laid out in a frame of that width, and how wide the frame is.
pub fn width(host: &Host, page: &str, frame: u32) -> Result<(u32, u32)> {
    // The page itself may let no script run, so a copy of it is measured.
    let measure = "<script>const root=document.documentElement;\
                   parent.postMessage(root.scrollWidth+' '+root.clientWidth,'*')</script>";
    let directory = host.directory();
    fs::write(directory.join("copy.html"), format!("{page}{measure}"))?;
    let outer = format!(
        "<!DOCTYPE html><script>addEventListener('message',event=>document.body.id=event.data)</script>\
         <body><iframe src=copy.html width={frame} height=900 style='border:0'></iframe>"
    );
    let outer_file = directory.join("outer.html");
    fs::write(&outer_file, outer)?;
    let url = format!("file://{}", outer_file.display());
    let (dom, _) = run(host, &["--virtual-time-budget=5000", "--dump-dom"], &url)?;
    let (needed, available) = dom
        .split("<body id=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .and_then(|sizes| sizes.split_once(' '))
        .with_context(|| format!("the copy of the page reported no sizes: {dom}"))?;
    Ok((needed.parse()?, available.parse()?))
}
