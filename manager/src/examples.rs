//! The examples in the help of each command.

use contrail_mesos_api::command_line::Example;

pub(crate) const EXAMPLES: &[Example] = &[
    Example {
        command: "",
        purpose: "What this manager would write now",
        line: "contrail-mesos-manager --dry-run",
    },
    Example {
        command: "",
        purpose: "Run with another configuration and a log for programs",
        line: "contrail-mesos-manager --config /etc/manager.toml --log-format json",
    },
    Example {
        command: "run",
        purpose: "Run until SIGTERM, and say more in the log",
        line: "contrail-mesos-manager run -v",
    },
    Example {
        command: "config check",
        purpose: "Check the configuration of this host",
        line: "contrail-mesos-manager config check",
    },
    Example {
        command: "config check",
        purpose: "Check a file that is meant for another host",
        line: "contrail-mesos-manager --config manager.toml config check --offline",
    },
    Example {
        command: "dump",
        purpose: "Collect what the report of a problem needs",
        line: "contrail-mesos-manager dump --output report.tar.gz",
    },
    Example {
        command: "healthcheck",
        purpose: "Whether the manager of this host is ready, for a probe of a container",
        line: "contrail-mesos-manager healthcheck",
    },
    Example {
        command: "import",
        purpose: "Translate the configuration of Contrail's own mesos-manager",
        line: "contrail-mesos-manager import /etc/contrail/contrail-mesos-manager.conf",
    },
    Example {
        command: "overlay check",
        purpose: "For how many nodes and containers overlays have room",
        line: "contrail-mesos-manager overlay check /etc/contrail-mesos/overlay.json",
    },
];
