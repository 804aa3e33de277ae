//! A container's `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`.
//!
//! A container with networks of its own has its own files (see `etc_storage` for where). The agent's
//! launch helper binds them over the container's, so nothing is executed here and the
//! host's files do not change.
//!
//! Invariant: a root filesystem comes from an image and is not trusted. No symbolic link in it is
//! followed.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::hash::Hash;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::mount::MsFlags;
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::host_resolver;
use crate::config::Dns;
use crate::proto::mesos::slave::ContainerMountInfo;
use contrail_mesos_api::files::write_regular_file;

/// The names of the files below `/etc`.
const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// A container's files could not be written or bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}", path = path.display())]
pub struct EtcFilesError {
    pub(super) action: &'static str,
    pub(super) path: PathBuf,
    #[source]
    pub(super) source: io::Error,
}

impl EtcFilesError {
    /// Whether there is no space left.
    pub(super) fn is_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

/// Writes the three files into `directory`. In place, so that a file that is already bound changes
/// under its mount. Without a name server in `dns`, it has those of the node daemon, `node_servers`.
/// Without these, `resolv.conf` is that of the host, as far as it works in a container.
pub(super) fn write(
    directory: &Path,
    hostname: &str,
    addresses: &[IpAddr],
    dns: &Dns,
    node_servers: &[IpAddr],
) -> Result<(), EtcFilesError> {
    let resolv_conf = if dns.nameservers.is_empty() && !node_servers.is_empty() {
        node_resolv_conf(dns, node_servers, &host_resolver::search_lines()).into_bytes()
    } else if dns.nameservers.is_empty() {
        let resolver = host_resolver::read().map_err(|source| EtcFilesError {
            action: "read the resolver configuration for a container without name servers,",
            path: PathBuf::from("/etc/resolv.conf"),
            source,
        })?;
        if let Some(problem) = resolver.problem {
            log::warn!("{problem}");
        }
        resolver.contents
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
        write_regular_file(&path, &content).map_err(|source| EtcFilesError {
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
    if !addresses.is_empty() && !addresses.iter().any(IpAddr::is_ipv4) {
        // The libprocess of an executor looks up its host's name in IPv4 only, and exits without an answer.
        let _ = writeln!(contents, "127.0.1.1 {hostname}");
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

/// The resolver configuration with the name servers of the node daemon. No other servers are beside
/// them: some resolvers ask all at once, and take the first answer, which for names of services would be
/// that there is none. The daemon answers at once, so a lost packet is sent again soon.
fn node_resolv_conf(dns: &Dns, servers: &[IpAddr], host_search: &str) -> String {
    let options = if dns.options.is_empty() {
        ["timeout:1", "attempts:3"].map(str::to_owned).to_vec()
    } else {
        dns.options.clone()
    };
    let has_search = dns.domain.is_some() || !dns.search.is_empty();
    let own = resolv_conf(&Dns {
        nameservers: servers.to_vec(),
        domain: dns.domain.clone(),
        search: dns.search.clone(),
        options,
    });
    if has_search {
        own
    } else {
        format!("{host_search}{own}")
    }
}

/// The resolver configuration of a container on several networks. As in `network/cni`, lists are
/// joined without duplicates, and the last network's domain wins.
pub(super) fn merge<'a>(all: impl IntoIterator<Item = &'a Dns>) -> Dns {
    /// The items of all lists, each once.
    struct Joined<'a, T>(HashSet<&'a T>);
    impl<'a, T: Clone + Eq + Hash> Joined<'a, T> {
        fn extend(&mut self, into: &mut Vec<T>, from: &'a [T]) {
            into.extend(from.iter().filter(|item| self.0.insert(item)).cloned());
        }
    }
    let mut merged = Dns::default();
    let mut nameservers = Joined(HashSet::new());
    let (mut search, mut options) = (Joined(HashSet::new()), Joined(HashSet::new()));
    for dns in all {
        nameservers.extend(&mut merged.nameservers, &dns.nameservers);
        search.extend(&mut merged.search, &dns.search);
        options.extend(&mut merged.options, &dns.options);
        merged.domain = dns.domain.clone().or(merged.domain);
    }
    merged
}

/// The mounts that replace a container's files by those of `directory`: over the host's paths in
/// the container's mount namespace and, for an image, inside its root filesystem.
pub(super) fn mounts(
    directory: &Path,
    rootfs: Option<&Path>,
    is_read_only: bool,
) -> Result<Vec<ContainerMountInfo>, EtcFilesError> {
    let flags = if is_read_only {
        MsFlags::MS_BIND | MsFlags::MS_RDONLY
    } else {
        MsFlags::MS_BIND
    };
    let mut mounts = Vec::new();
    for name in FILES {
        let source = directory.join(name);
        let on_host = Path::new("/etc").join(name);
        // The launch helper would create a missing target on the host.
        if on_host.exists() {
            mounts.push(bind(&source, &on_host, flags));
        }
        if let Some(rootfs) = rootfs {
            let target = target_in(rootfs, name)?;
            mounts.push(bind(&source, &target, flags));
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
    ensure_regular_file(rootfs, name).map_err(|source| EtcFilesError {
        action: "bind the container's own file over that of the image,",
        path: path.clone(),
        source,
    })?;
    Ok(path)
}

fn ensure_regular_file(rootfs: &Path, name: &str) -> io::Result<()> {
    let directory = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let root = open(rootfs, directory, Mode::empty())?;
    match mkdirat(&root, "etc", Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let etc = openat(&root, "etc", directory, Mode::empty()).map_err(|errno| match errno {
        Errno::ENOTDIR | Errno::ELOOP => {
            invalid_image("etc is no directory; the image must have a directory there, or nothing")
        }
        errno => errno.into(),
    })?;
    match fstatat(&etc, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if kind(&stat) == SFlag::S_IFREG => Ok(()),
        Ok(stat) if kind(&stat) == SFlag::S_IFLNK => {
            unlinkat(&etc, name, UnlinkatFlags::NoRemoveDir)?;
            create(&etc, name)
        }
        Ok(stat) if kind(&stat) == SFlag::S_IFDIR => Err(invalid_image(
            "it is a directory; the image must have a file there, or nothing",
        )),
        Ok(_) => Err(invalid_image(
            "it is no regular file; the image must have a file there, or nothing",
        )),
        Err(Errno::ENOENT) => create(&etc, name),
        Err(errno) => Err(errno.into()),
    }
}

fn invalid_image(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn create(etc: &OwnedFd, name: &str) -> io::Result<()> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    openat(etc, name, flags, Mode::from_bits_truncate(0o644))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
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
    fn node_servers_keep_the_hosts_search_domains_unless_there_are_others() {
        let servers = ["198.18.0.1", "fd00::1"].map(|server| server.parse().unwrap());
        assert_eq!(
            node_resolv_conf(&Dns::default(), &servers, "search corp.example\n"),
            "search corp.example\noptions timeout:1 attempts:3\nnameserver 198.18.0.1\n\
             nameserver fd00::1\n"
        );
        let own = dns(&[], Some("own.example"), &["ndots:2"]);
        assert_eq!(
            node_resolv_conf(&own, &servers[..1], "search corp.example\n"),
            "domain own.example\noptions ndots:2\nnameserver 198.18.0.1\n"
        );
    }

    #[test]
    fn configured_servers_come_before_those_of_the_node() {
        let directory = tempfile::tempdir().unwrap();
        let node = ["198.18.0.1".parse().unwrap()];
        let servers = |configured: &[&str], node: &[IpAddr]| {
            let dns = dns(configured, None, &[]);
            write(directory.path(), "web", &[], &dns, node).unwrap();
            let contents = fs::read_to_string(directory.path().join("resolv.conf")).unwrap();
            let lines = contents.lines();
            let servers = lines.filter_map(|line| line.strip_prefix("nameserver "));
            servers.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(servers(&["10.0.0.2"], &node), ["10.0.0.2"]);
        assert_eq!(servers(&[], &node), ["198.18.0.1"]);
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
    fn hosts_has_an_ipv4_address_without_one_of_the_container() {
        let address = "fd00::5".parse().expect("an address");
        let contents = hosts("web", &[address]);
        assert!(
            contents.ends_with("\nfd00::5 web\n127.0.1.1 web\n"),
            "{contents}"
        );
        // Whose addresses are not known is not on loopback.
        assert!(!hosts("web", &[]).contains("web"));
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
    fn directory_in_place_of_a_file_is_named_as_the_reason() {
        let rootfs = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(rootfs.path().join("etc/hosts")).expect("a directory");
        let error = target_in(rootfs.path(), "hosts").expect_err("a directory is refused");
        let message = error.to_string();
        assert!(
            message.contains("etc/hosts") && message.contains("it is a directory"),
            "{message}"
        );
    }

    #[test]
    fn missing_etc_in_image_is_created() {
        let rootfs = tempfile::tempdir().expect("a directory");
        let target = target_in(rootfs.path(), "hosts").expect("a regular file");
        assert_eq!(target, rootfs.path().join("etc/hosts"));
        assert!(target.is_file());
    }
}
