//! How the agent launches a container: namespaces, mounts and environment.

use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;

use crate::proto::mesos::environment::Variable;
use crate::proto::mesos::slave::{ContainerConfig, ContainerLaunchInfo, ContainerMountInfo};
use crate::proto::mesos::{Environment, environment};

/// A container with network, UTS and mount namespaces of its own.
pub(super) fn own_networks(mounts: Vec<ContainerMountInfo>) -> ContainerLaunchInfo {
    ContainerLaunchInfo {
        environment: Some(Environment {
            // Otherwise the executor's libprocess binds the agent's address, which the
            // container does not have.
            variables: vec![Variable {
                name: "LIBPROCESS_IP".to_owned(),
                value: Some("0.0.0.0".to_owned()),
                r#type: Some(environment::variable::Type::Value.into()),
            }],
        }),
        clone_namespaces: vec![
            CloneFlags::CLONE_NEWNET.bits(),
            CloneFlags::CLONE_NEWUTS.bits(),
            CloneFlags::CLONE_NEWNS.bits(),
        ],
        mounts,
        ..ContainerLaunchInfo::default()
    }
}

/// A nested container in the network and UTS namespaces of its parent.
pub(super) fn joining(mounts: Vec<ContainerMountInfo>) -> ContainerLaunchInfo {
    let own_mounts = if mounts.is_empty() {
        vec![]
    } else {
        vec![CloneFlags::CLONE_NEWNS.bits()]
    };
    ContainerLaunchInfo {
        enter_namespaces: vec![
            CloneFlags::CLONE_NEWNET.bits(),
            CloneFlags::CLONE_NEWUTS.bits(),
        ],
        clone_namespaces: own_mounts,
        mounts,
        ..ContainerLaunchInfo::default()
    }
}

/// A container on the host's network with a root filesystem of its own.
pub(super) fn host_network(mounts: Vec<ContainerMountInfo>) -> ContainerLaunchInfo {
    ContainerLaunchInfo {
        clone_namespaces: vec![CloneFlags::CLONE_NEWNS.bits()],
        mounts,
        ..ContainerLaunchInfo::default()
    }
}

/// The container's root filesystem, if it has an image.
pub(super) fn rootfs(config: &ContainerConfig) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt as _;
    let rootfs = config.rootfs.as_deref()?;
    Some(Path::new(std::ffi::OsStr::from_bytes(rootfs)).to_owned())
}
