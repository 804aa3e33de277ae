//! The examples in the help of each command.

use contrail_mesos_api::command_line::Example;

const fn example(command: &'static str, purpose: &'static str, line: &'static str) -> Example {
    Example {
        command,
        purpose,
        line,
    }
}

pub(crate) const EXAMPLES: &[Example] = &[
    example(
        "attach",
        "What would be changed",
        "contrail-mesos attach test --network blue --port 8080:80 --dry-run",
    ),
    example(
        "attach",
        "Attach the namespace /run/netns/test to two networks",
        "contrail-mesos attach test --netns test --network blue --network red",
    ),
    example("detach", "Undo it", "contrail-mesos detach test"),
    example(
        "detach",
        "Remove what is left of a container whose checkpoint is damaged",
        "contrail-mesos detach test --force",
    ),
    example(
        "groups",
        "The groups of a container",
        "contrail-mesos groups web.1",
    ),
    example(
        "groups",
        "Be in other groups from now on",
        "contrail-mesos groups web.1 --group front --security-group public",
    ),
    example(
        "status",
        "The containers of this host",
        "contrail-mesos status",
    ),
    example(
        "status",
        "Those that are not attached as they should be",
        "contrail-mesos status -o json | jq '.containers[] | select(.state != \"attached\")'",
    ),
    example(
        "status",
        "The nodes of the cluster",
        "contrail-mesos status --cluster",
    ),
    example(
        "container show",
        "Everything about a container, by the beginning of its id or its task",
        "contrail-mesos container show web.1",
    ),
    example(
        "network list",
        "The networks of this host, and their free addresses",
        "contrail-mesos network list",
    ),
    example(
        "network show",
        "Who has the addresses of a network",
        "contrail-mesos network show blue",
    ),
    example(
        "address show",
        "Which container has an address, and which had it before",
        "contrail-mesos address show 10.32.0.7",
    ),
    example(
        "trace",
        "Why a task cannot reach a port of another one",
        "contrail-mesos trace web.3f2a db.11:5432",
    ),
    example(
        "trace",
        "From outside to a mapped port",
        "contrail-mesos trace outside 192.0.2.10:8080",
    ),
    example(
        "trace",
        "To a service, as JSON",
        "contrail-mesos trace 10.32.0.7 web.marathon:80 -o json",
    ),
    example(
        "connectivity",
        "Test all networks of this host",
        "contrail-mesos connectivity",
    ),
    example(
        "connectivity",
        "Test one of them, with a report for a CI server",
        "contrail-mesos connectivity --network blue --junit connectivity.xml",
    ),
    example(
        "check",
        "What belongs to no container",
        "contrail-mesos check",
    ),
    example(
        "check",
        "What a repair would do",
        "contrail-mesos check --repair --dry-run",
    ),
    example(
        "config check",
        "Check the configuration of this host",
        "contrail-mesos config check",
    ),
    example(
        "config check",
        "Check a file that is meant for other hosts, without root",
        "contrail-mesos --config agent.toml config check --offline",
    ),
    example(
        "doctor",
        "Check this host, and show only failures and warnings",
        "contrail-mesos doctor | grep -v ^ok",
    ),
    example(
        "doctor",
        "Check whether a new library fits the installed Mesos",
        "contrail-mesos doctor --library ./libcontrail_mesos.so",
    ),
    example(
        "dump",
        "Collect what the report of a problem needs",
        "contrail-mesos dump",
    ),
    example(
        "dump",
        "In a smaller file, with the log of the agent",
        "contrail-mesos dump --output report.tar.gz --max-size 8M --log /var/log/mesos/agent.log",
    ),
    example(
        "module info",
        "For which Mesos a library was built",
        "contrail-mesos module info /usr/lib/mesos/modules/libcontrail_mesos.so",
    ),
];
