//! A container's `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
//!
//! A container with networks of its own has its own files, in its checkpoint directory. The
//! agent's launch helper binds them over the container's, so nothing is executed here and the
//! host's files do not change.
//!
//! Invariant: a root filesystem comes from an image and is not trusted. No symbolic link in it is
//! followed.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::mount::MsFlags;
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::config::Dns;
use crate::proto::mesos::slave::ContainerMountInfo;

/// The names of the files below `/etc`.
const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// A container's files could not be written or bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}", path = path.display())]
pub struct EtcFilesError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Writes the three files into `directory`. In place, so that a file that is already bound changes
/// under its mount. Without a name server in `dns`, `resolv.conf` is a copy of the host's.
pub(super) fn write(
    directory: &Path,
    hostname: &str,
    addresses: &[IpAddr],
    dns: &Dns,
) -> Result<(), EtcFilesError> {
    let host_resolver = Path::new("/etc/resolv.conf");
    let resolv_conf = if dns.nameservers.is_empty() {
        fs::read(host_resolver).map_err(|source| EtcFilesError {
            action: "read the resolver configuration for a container without name servers,",
            path: host_resolver.to_owned(),
            source,
        })?
    } else {
        resolv_conf(dns).into_bytes()
    };
    let contents = [
        hosts(hostname, addresses).into_bytes(),
        format!("{hostname}\n").into_bytes(),
        resolv_conf,
    ];
    for (name, content) in FILES.iter().zip(contents) {
        let path = directory.join(name);
        fs::write(&path, content).map_err(|source| EtcFilesError {
            action: "write",
            path: path.clone(),
            source,
        })?;
    }
    Ok(())
}

fn hosts(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut contents =
        String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
        if let Some(address) = addresses.iter().find(|address| family(address)) {
            // Writing to a String cannot fail.
            let _ = writeln!(contents, "{address} {hostname}");
        }
    }
    contents
}

fn resolv_conf(dns: &Dns) -> String {
    let mut contents = String::new();
    let mut line = |keyword: &str, words: &[String]| {
        if !words.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(contents, "{keyword} {}", words.join(" "));
        }
    };
    line("domain", dns.domain.as_slice());
    line("search", &dns.search);
    line("options", &dns.options);
    for server in &dns.nameservers {
        line("nameserver", &[server.to_string()]);
    }
    contents
}

/// The resolver configuration of a container on several networks. As in `network/cni`, lists are
/// joined without duplicates, and the last network's domain wins.
pub(super) fn merge<'a>(all: impl IntoIterator<Item = &'a Dns>) -> Dns {
    fn join<T: Clone + PartialEq>(into: &mut Vec<T>, from: &[T]) {
        for item in from {
            if !into.contains(item) {
                into.push(item.clone());
            }
        }
    }
    let mut merged = Dns::default();
    for dns in all {
        join(&mut merged.nameservers, &dns.nameservers);
        join(&mut merged.search, &dns.search);
        join(&mut merged.options, &dns.options);
        merged.domain = dns.domain.clone().or(merged.domain);
    }
    merged
}

/// The mounts that replace a container's files by those of `directory`: over the host's paths in
/// the container's mount namespace and, for an image, inside its root filesystem.
pub(super) fn mounts(
    directory: &Path,
    rootfs: Option<&Path>,
) -> Result<Vec<ContainerMountInfo>, EtcFilesError> {
    let mut mounts = Vec::new();
    for name in FILES {
        let source = directory.join(name);
        let on_host = Path::new("/etc").join(name);
        // The launch helper would create a missing target on the host.
        if on_host.exists() {
            mounts.push(bind(&source, &on_host, MsFlags::MS_BIND));
        }
        if let Some(rootfs) = rootfs {
            let target = target_in(rootfs, name)?;
            mounts.push(bind(&source, &target, MsFlags::MS_BIND));
        }
    }
    Ok(mounts)
}

/// The mounts that put the host's files, read-only, into the root filesystem of a container on the
/// host's network.
pub(super) fn host_mounts(rootfs: &Path) -> Result<Vec<ContainerMountInfo>, EtcFilesError> {
    let mut mounts = Vec::new();
    for name in FILES {
        let source = Path::new("/etc").join(name);
        if source.exists() {
            let target = target_in(rootfs, name)?;
            mounts.push(bind(
                &source,
                &target,
                MsFlags::MS_BIND | MsFlags::MS_RDONLY,
            ));
        }
    }
    Ok(mounts)
}

fn bind(source: &Path, target: &Path, flags: MsFlags) -> ContainerMountInfo {
    ContainerMountInfo {
        source: Some(source.to_string_lossy().into_owned()),
        target: target.to_string_lossy().into_owned(),
        // All mount flags are below 2^32.
        flags: u32::try_from(flags.bits()).ok(),
        ..ContainerMountInfo::default()
    }
}

/// The path of `etc/<name>` below `rootfs`, which is a regular file when this returns. It is
/// created if missing, and replaces a symbolic link, through which the mount would end up on the
/// host.
fn target_in(rootfs: &Path, name: &str) -> Result<PathBuf, EtcFilesError> {
    let path = rootfs.join("etc").join(name);
    ensure_regular_file(rootfs, name).map_err(|errno| EtcFilesError {
        action: "create a regular file in the image at",
        path: path.clone(),
        source: errno.into(),
    })?;
    Ok(path)
}

fn ensure_regular_file(rootfs: &Path, name: &str) -> nix::Result<()> {
    let directory = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let root = open(rootfs, directory, Mode::empty())?;
    match mkdirat(&root, "etc", Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let etc = openat(&root, "etc", directory, Mode::empty())?;
    match fstatat(&etc, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if kind(&stat) == SFlag::S_IFREG => Ok(()),
        Ok(stat) if kind(&stat) == SFlag::S_IFLNK => {
            unlinkat(&etc, name, UnlinkatFlags::NoRemoveDir)?;
            create(&etc, name)
        }
        Ok(_) => Err(Errno::EINVAL),
        Err(Errno::ENOENT) => create(&etc, name),
        Err(errno) => Err(errno),
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn create(etc: &OwnedFd, name: &str) -> nix::Result<()> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    openat(etc, name, flags, Mode::from_bits_truncate(0o644)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn dns(servers: &[&str], domain: Option<&str>, options: &[&str]) -> Dns {
        Dns {
            nameservers: servers
                .iter()
                .map(|server| server.parse().expect("an address"))
                .collect(),
            domain: domain.map(str::to_owned),
            search: vec![],
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        }
    }

    #[test]
    fn merge_of_several_networks_joins_lists() {
        let merged = merge([
            &dns(&["10.0.0.2"], Some("one"), &["ndots:2"]),
            &dns(&["10.0.0.2", "fd00::2"], None, &["rotate"]),
        ]);
        assert_eq!(
            resolv_conf(&merged),
            "domain one\noptions ndots:2 rotate\nnameserver 10.0.0.2\nnameserver fd00::2\n"
        );
    }

    #[test]
    fn hosts_has_first_address_of_each_family() {
        let addresses =
            ["10.0.0.5", "10.1.0.5", "fd00::5"].map(|server| server.parse().expect("an address"));
        let contents = hosts("web", &addresses);
        assert!(
            contents.contains("\n10.0.0.5 web\n") && contents.contains("\nfd00::5 web\n"),
            "{contents}"
        );
        assert!(!contents.contains("10.1.0.5"), "{contents}");
    }

    #[test]
    fn symlink_in_image_cannot_redirect_mount() {
        let outside = tempfile::tempdir().expect("a directory");
        let rootfs = tempfile::tempdir().expect("a directory");
        let victim = outside.path().join("victim");
        fs::write(&victim, "host").expect("a file");
        fs::create_dir(rootfs.path().join("etc")).expect("etc");
        symlink(&victim, rootfs.path().join("etc/resolv.conf")).expect("a link");
        let target = target_in(rootfs.path(), "resolv.conf").expect("a regular file");
        assert!(fs::symlink_metadata(target).expect("metadata").is_file());
        assert_eq!(fs::read_to_string(&victim).expect("untouched"), "host");

        let rootfs = tempfile::tempdir().expect("a directory");
        symlink(outside.path(), rootfs.path().join("etc")).expect("a link");
        target_in(rootfs.path(), "hosts").expect_err("a symbolic link at etc is refused");
        assert!(!outside.path().join("hosts").exists());
    }

    #[test]
    fn missing_etc_in_image_is_created() {
        let rootfs = tempfile::tempdir().expect("a directory");
        let target = target_in(rootfs.path(), "hosts").expect("a regular file");
        assert_eq!(target, rootfs.path().join("etc/hosts"));
        assert!(target.is_file());
    }
}
