#!/usr/bin/env python3
"""Writes the Grafana dashboards next to this file: monitoring/dashboards/*.json.

Change the lists below, and run this script without arguments. A test compares the result with the files.
`$` in an expression stands for the selector of the dashboard's variables.
"""

import json
import pathlib

MANAGER = "contrail_mesos_manager_"
NODE = "contrail_mesos_node_"
# Grafana 12 and later; newer versions migrate it when they load it.
SCHEMA_VERSION = 41
COLUMNS = 3
WIDTH = 24 // COLUMNS
HEIGHT = 7


def panel(title, unit, description, *targets, kind="timeseries"):
    """A panel. Each target is an expression and its legend."""
    return {"title": title, "unit": unit, "description": description, "targets": targets, "kind": kind}


def stat(title, unit, description, *targets):
    return panel(title, unit, description, *targets, kind="stat")


def quantiles(metric, by=""):
    """The median and the 99th percentile of a histogram."""
    groups = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return [
        (f"histogram_quantile({q}, sum by ({groups}) (rate({metric}_bucket{{$}}[$__rate_interval])))", name + legend)
        for q, name in [(0.5, "median"), (0.99, "99 %")]
    ]


def process(job):
    """What every process has."""
    return (
        "Process",
        [
            panel("Processor", "percentunit", "User and system time of the processes, in processors.",
                  (f'rate(process_cpu_seconds_total{{$, job="{job}"}}[$__rate_interval])', "{{instance}}")),
            panel("Memory", "bytes", "Resident memory.",
                  (f'process_resident_memory_bytes{{$, job="{job}"}}', "{{instance}}")),
            panel("File descriptors", "percentunit", "Open ones, as a part of the limit.",
                  (f'process_open_fds{{$, job="{job}"}} / process_max_fds{{$, job="{job}"}}', "{{instance}}")),
        ],
    )


NODES = {
    "file": "nodes",
    "title": "contrail-mesos: nodes",
    "description": "The node daemons: whether they are in step, and what they keep up on their hosts.",
    "variables": NODE + "ready",
    "rows": [
        ("In step", [
            stat("Node daemons", "none", "Those that answer, and all.",
                 ('sum(up{$, job="contrail-mesos-node"})', "answer"),
                 ('count(up{$, job="contrail-mesos-node"})', "all")),
            stat("Not ready", "none", "Nodes that have never applied a complete state of the cluster.",
                 (f"count({NODE}ready{{$}} == 0) or vector(0)", "nodes")),
            stat("Versions", "none", "Node daemons by version.",
                 (f"count by (version) ({NODE}build_info{{$}})", "{{version}}")),
            panel("Follow a manager", "bool_yes_no", "Whether the node daemon has an open watch at the leader.",
                  (f"{NODE}synced{{$}}", "{{instance}}")),
            panel("Revisions behind", "none", "Changes that the node knows and has not applied completely.",
                  (f"{NODE}known_counter{{$}} - {NODE}applied_counter{{$}}", "{{instance}}")),
            panel("Reports", "ops", "Reports to the managers, and those that failed.",
                  (f"rate({NODE}reports_total{{$}}[$__rate_interval])", "{{instance}}"),
                  (f"rate({NODE}report_failures_total{{$}}[$__rate_interval])", "{{instance}} failed")),
        ]),
        ("What is kept up", [
            panel("Problems", "none", "What is not as it must be, by subsystem.",
                  (f"sum by (instance, subsystem) ({NODE}problems{{$}})", "{{instance}} {{subsystem}}")),
            panel("Repairs", "none", "Changes of other programs that were undone, in 5 minutes.",
                  (f"sum by (instance, subsystem) (increase({NODE}repairs_total{{$}}[5m]))",
                   "{{instance}} {{subsystem}}")),
            panel("Changes", "ops", "Changes for a new state of the cluster, by subsystem.",
                  (f"sum by (subsystem) (rate({NODE}changes_total{{$}}[$__rate_interval]))", "{{subsystem}}")),
            panel("Hanging subsystems", "none", "Comparisons that do not end.",
                  (f"{NODE}hanging_subsystems{{$}}", "{{instance}}")),
            panel("Failed comparisons", "ops", "Comparisons with problems, and panics, which are bugs.",
                  (f"sum by (subsystem) (rate({NODE}failures_total{{$}}[$__rate_interval]))", "{{subsystem}}"),
                  (f"sum by (subsystem) (rate({NODE}panics_total{{$}}[$__rate_interval]))", "{{subsystem}} panics")),
            panel("Lacks", "none", "What the managers cannot give the node.",
                  (f"{NODE}manager_problems{{$}}", "{{instance}}")),
        ]),
        ("Containers", [
            panel("Containers", "none", "Attached containers of each host.",
                  (f'{NODE}containers{{$, state="attached"}}', "{{instance}}")),
            panel("Incomplete and damaged", "none",
                  "Containers that are being attached or detached, and checkpoints that cannot be read.",
                  (f'{NODE}containers{{$, state!="attached"}}', "{{instance}} {{state}}")),
            panel("Pending teardowns", "none",
                  "Containers that are detached, whose teardown a provider has not completed.",
                  (f"{NODE}pending_teardowns{{$}}", "{{instance}} {{provider}}")),
        ]),
        ("Tracked flows", [
            panel("Use of the table", "percentunit", "Flows that the kernel tracks, as a part of its limit.",
                  (f"{NODE}conntrack_flows{{$}} / {NODE}conntrack_limit{{$}}", "{{instance}}")),
            panel("Flows", "none", "Flows that the kernel tracks.",
                  (f"{NODE}conntrack_flows{{$}}", "{{instance}}")),
            panel("Overflows", "ops", "Flows that could not be tracked, or were forgotten early.",
                  (f"rate({NODE}conntrack_failures_total{{$}}[$__rate_interval])", "{{instance}} failures"),
                  (f"rate({NODE}conntrack_evictions_total{{$}}[$__rate_interval])", "{{instance}} evictions")),
        ]),
        process("contrail-mesos-node"),
    ],
}

NETWORKS = {
    "file": "networks",
    "title": "contrail-mesos: networks",
    "description": "Addresses, overlays and groups.",
    "variables": NODE + "ready",
    "rows": [
        ("Addresses of networks on hosts", [
            panel("Used", "percentunit", "The part of a network's addresses that containers of a host have.",
                  (f"{NODE}network_addresses_used{{$}} / "
                   f"({NODE}network_addresses_used{{$}} + {NODE}network_addresses_free{{$}})",
                   "{{instance}} {{network}} {{family}}")),
            panel("Containers' addresses", "none", "Addresses that containers have, over all hosts.",
                  (f"sum by (network, family) ({NODE}network_addresses_used{{$}})", "{{network}} {{family}}")),
            panel("Fewest free addresses", "none", "Free addresses of the host that has the fewest.",
                  (f"min by (network, family) ({NODE}network_addresses_free{{$}})", "{{network}} {{family}}")),
        ]),
        ("Overlays", [
            panel("Subnets and blocks", "percentunit", "The part of an overlay that nodes have.",
                  (f"max by (overlay, subnet) ({MANAGER}overlay_subnets_used{{$c}} / "
                   f"({MANAGER}overlay_subnets_used{{$c}} + {MANAGER}overlay_subnets_free{{$c}}))",
                   "{{overlay}} {{subnet}}")),
            panel("Tunnel endpoints", "percentunit", "The part of their addresses that nodes have.",
                  (f"max by (subnet) ({MANAGER}overlay_endpoints_used{{$c}} / "
                   f"({MANAGER}overlay_endpoints_used{{$c}} + {MANAGER}overlay_endpoints_free{{$c}}))",
                   "{{subnet}}")),
            panel("Nodes", "none", "Nodes by condition, as the leader sees them.",
                  (f"max by (condition) ({MANAGER}nodes{{$c}})", "{{condition}}")),
            panel("Problems of nodes", "none", "Nodes that report a problem, or could not be given everything.",
                  (f"max({MANAGER}nodes_with_problems{{$c}})", "nodes")),
            panel("Lag", "none", "Changes that the slowest connected node has not applied yet.",
                  (f"max({MANAGER}nodes_lag{{$c}})", "changes")),
            panel("Versions and configurations", "none", "Different ones that nodes report.",
                  (f"max({MANAGER}nodes_versions{{$c}})", "versions"),
                  (f"max({MANAGER}nodes_configurations{{$c}})", "configurations")),
        ]),
        ("Groups", [
            panel("Dropped packets", "pps", "Packets to containers that groups did not let pass, by reason.",
                  (f"sum by (reason) (rate({NODE}dropped_packets_total{{$}}[$__rate_interval]))", "{{reason}}")),
            panel("Dropped packets by host", "pps", "The same by the host of the receiver.",
                  (f"sum by (instance) (rate({NODE}dropped_packets_total{{$}}[$__rate_interval]))", "{{instance}}")),
            panel("Containers in groups", "none", "Published containers, and those that are not published.",
                  (f"max({MANAGER}endpoints{{$c}})", "published"),
                  (f"max({MANAGER}endpoints_refused{{$c}})", "refused")),
        ]),
    ],
}

MANAGERS = {
    "file": "manager",
    "title": "contrail-mesos: managers and Contrail",
    "description": "The managers: leadership, sources, reconciliation and the VNC API.",
    "variables": MANAGER + "leading",
    "rows": [
        ("Leadership", [
            stat("Managers", "none", "Those that answer, and all.",
                 ('sum(up{$, job="contrail-mesos-manager"})', "answer"),
                 ('count(up{$, job="contrail-mesos-manager"})', "all")),
            panel("Leads", "bool_yes_no", "Which manager leads. There must be one at any time.",
                  (f"{MANAGER}leading{{$}}", "{{instance}}")),
            panel("Serves agents", "bool_yes_no", "Whether it accepts requests of agents.",
                  (f"{MANAGER}serving{{$}}", "{{instance}}")),
            panel("Knows a leader", "bool_yes_no", "Whether the manager has a session at ZooKeeper and knows a leader.",
                  (f"{MANAGER}leader_known{{$}}", "{{instance}}")),
            stat("Term", "none", "The term of the leader. It grows with every change of the leader.",
                 (f"max({MANAGER}term{{$}})", "term")),
            stat("Versions", "none", "Managers by version.",
                 (f"count by (version) ({MANAGER}build_info{{$}})", "{{version}}")),
        ]),
        ("Requests", [
            panel("Requests", "reqps", "Requests of agents and nodes, by status.",
                  (f"sum by (status) (rate({MANAGER}requests_total{{$}}[$__rate_interval]))", "{{status}}")),
            panel("Duration", "s", "Duration of these requests, by method.",
                  *quantiles(MANAGER + "request_duration_seconds", "method")),
            panel("Connections", "none", "Open connections, by API.",
                  (f"sum by (api) ({MANAGER}connections{{$}})", "{{api}}")),
            panel("Containers", "ops", "Containers whose ports were created or removed.",
                  (f"sum(rate({MANAGER}containers_made_total{{$}}[$__rate_interval]))", "created"),
                  (f"sum(rate({MANAGER}containers_removed_total{{$}}[$__rate_interval]))", "removed")),
            panel("Failed containers", "none", "Requests for containers that failed in 5 minutes, by cause.",
                  (f"sum by (cause) (increase({MANAGER}containers_failed_total{{$}}[5m])) or vector(0)", "{{cause}}")),
            panel("Unfinished containers", "none", "Containers that failed, and whose objects are not removed yet.",
                  (f"max({MANAGER}containers_unfinished{{$}})", "containers")),
        ]),
        ("Sources", [
            panel("Up to date", "bool_yes_no", "Whether the source is connected and has listed everything since.",
                  (f"max by (source) ({MANAGER}source_fresh{{$}})", "{{source}}")),
            panel("Trusted", "bool_yes_no", "Whether the last list was complete. Only a trusted Mesos can cause a deletion.",
                  (f"max by (source) ({MANAGER}source_trusted{{$}})", "{{source}}")),
            panel("Updates", "ops", "Lists, events and losses of the sources.",
                  (f"sum by (source, update) (rate({MANAGER}source_updates_total{{$}}[$__rate_interval]))",
                   "{{source}} {{update}}")),
            panel("Contents", "none", "What the leader knows of Mesos, Marathon and the VNC API.",
                  (f"max({MANAGER}tasks{{$}})", "tasks"),
                  (f"max({MANAGER}apps{{$}})", "apps"),
                  (f"max({MANAGER}containers_known{{$}})", "containers")),
            panel("Agents", "none", "Agents in Mesos, connected or not.",
                  (f"max by (connected) ({MANAGER}agents{{$}})", "connected: {{connected}}")),
            panel("Orphans", "none", "Objects in the VNC API that belong to no container.",
                  (f"max({MANAGER}orphans{{$}})", "objects")),
        ]),
        ("Reconciliation and the VNC API", [
            panel("Queue", "none", "Containers and orphans that wait, and those that have failed.",
                  (f"max({MANAGER}queue_length{{$}})", "all"),
                  (f"max({MANAGER}queue_failing{{$}})", "failing")),
            panel("Reconciled", "ops", "Reconciled containers and orphans, by outcome.",
                  (f"sum by (outcome) (rate({MANAGER}reconciled_total{{$}}[$__rate_interval]))", "{{outcome}}")),
            panel("Time to write", "s", "From an event to the end of the write that it caused.",
                  *quantiles(MANAGER + "write_lag_seconds")),
            panel("VNC API responds", "bool_yes_no", "Whether the API servers respond.",
                  (f"{MANAGER}vnc_up{{$}}", "{{instance}}")),
            panel("Calls", "reqps", "Calls to the VNC API by status, retries included.",
                  (f"sum by (status) (rate({MANAGER}vnc_calls_total{{$}}[$__rate_interval]))", "{{status}}")),
            panel("Reading everything", "s", "Duration of reading everything from the VNC API.",
                  *quantiles(MANAGER + "contrail_reading_seconds")),
        ]),
        process("contrail-mesos-manager"),
    ],
}

SERVICES = {
    "file": "services",
    "title": "contrail-mesos: services and names",
    "description": "Virtual IPs and DNS.",
    "variables": NODE + "ready",
    "rows": [
        ("Services", [
            panel("Published services", "none", "All, and those that refuse connections.",
                  (f"max({MANAGER}services{{$c}})", "services"),
                  (f"max({MANAGER}services_without_ready_backend{{$c}})", "without a ready backend")),
            panel("Backends", "none", "Published backends by state.",
                  (f"max by (state) ({MANAGER}services_backends{{$c}})", "{{state}}")),
            panel("Problems", "none", "Ports and labels that make no service.",
                  (f"max({MANAGER}services_problems{{$c}})", "labels")),
            panel("Addresses", "percentunit", "The part of each range that names have.",
                  (f"max by (range) ({MANAGER}services_addresses_used{{$c}} / "
                   f"({MANAGER}services_addresses_used{{$c}} + {MANAGER}services_addresses_free{{$c}}))", "{{range}}")),
            panel("Changes", "ops", "Services and names that were published or withdrawn.",
                  (f"sum by (kind, change) (rate({MANAGER}services_changes_total{{$c}}[$__rate_interval]))",
                   "{{kind}} {{change}}")),
            panel("Waits", "bool_yes_no", "Whether something is kept that may be gone.",
                  (f"max({MANAGER}services_waiting{{$c}})", "waits")),
            panel("Services on hosts", "none", "Services whose data path is in place.",
                  (f"{NODE}services{{$}}", "{{instance}}")),
            panel("Backends on hosts", "none", "Backends that get new connections from the host.",
                  (f"{NODE}service_backends{{$}}", "{{instance}}")),
            panel("Forgotten flows", "ops", "Flows that had to begin again, because their backend was gone.",
                  (f"rate({NODE}service_flows_forgotten_total{{$}}[$__rate_interval])", "{{instance}}")),
        ]),
        ("DNS", [
            panel("Responses by zone", "reqps", "Responses of the nodes' DNS servers.",
                  (f"sum by (zone) (rate({NODE}dns_responses_total{{$}}[$__rate_interval]))", "{{zone}}")),
            panel("Responses by code", "reqps", "The same by response code.",
                  (f"sum by (code) (rate({NODE}dns_responses_total{{$}}[$__rate_interval]))", "{{code}}")),
            panel("Other servers", "s", "Time until another server has answered.",
                  *quantiles(NODE + "dns_forward_seconds")),
            panel("Failures", "ops", "Questions without an answer, and queries that were too many.",
                  (f"sum by (instance) (rate({NODE}dns_forward_failures_total{{$}}[$__rate_interval]))",
                   "{{instance}} not answered"),
                  (f"sum by (instance) (rate({NODE}dns_limited_total{{$}}[$__rate_interval]))",
                   "{{instance}} too many")),
            panel("Cache", "ops", "Queries that were answered from the cache, or waited for the same question.",
                  (f"sum by (instance) (rate({NODE}dns_cache_hits_total{{$}}[$__rate_interval]))", "{{instance}} cached"),
                  (f"sum by (instance) (rate({NODE}dns_merged_total{{$}}[$__rate_interval]))", "{{instance}} merged")),
            panel("TCP connections", "none", "Open connections by TCP.",
                  (f"{NODE}dns_connections{{$}}", "{{instance}}")),
        ]),
    ],
}

# On dashboards of nodes, metrics of managers are not of the selected instances.
SELECTORS = [
    ("{$c}", '{cluster=~"$cluster"}'),
    ("{$}", '{cluster=~"$cluster", instance=~"$instance"}'),
    ("{$, ", '{cluster=~"$cluster", instance=~"$instance", '),
]
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def expression(text):
    for short, selector in SELECTORS:
        text = text.replace(short, selector)
    return text


def grafana_panel(number, spec, x, y):
    defaults = {"unit": spec["unit"], "min": 0}
    if spec["unit"] == "bool_yes_no":
        defaults["max"] = 1
    options = {
        "timeseries": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name", "colorMode": "none"},
    }
    return {
        "id": number,
        "type": spec["kind"],
        "title": spec["title"],
        "description": spec["description"],
        "datasource": DATASOURCE,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options[spec["kind"]],
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expression(text), "legendFormat": legend}
            for index, (text, legend) in enumerate(spec["targets"])
        ],
    }


def variable(name, metric):
    matcher = "" if name == "cluster" else '{cluster=~"$cluster"}'
    query = f"label_values({metric}{matcher}, {name})"
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        # Also what has no such label.
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def dashboard(spec):
    panels, y = [], 0
    for title, row in spec["rows"]:
        panels.append({
            "id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
        })
        y += 1
        for index, one in enumerate(row):
            x = WIDTH * (index % COLUMNS)
            panels.append(grafana_panel(len(panels) + 1, one, x, y + HEIGHT * (index // COLUMNS)))
        y += HEIGHT * -(-len(row) // COLUMNS)
    return {
        "uid": "contrail-mesos-" + spec["file"],
        "title": spec["title"],
        "description": spec["description"],
        "tags": ["contrail-mesos"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "links": [{"type": "dashboards", "title": "contrail-mesos", "tags": ["contrail-mesos"], "asDropdown": False,
                   "includeVars": True, "keepTime": True}],
        "annotations": {"list": []},
        "templating": {"list": [
            {"name": "datasource", "label": "data source", "type": "datasource", "query": "prometheus", "refresh": 1},
            variable("cluster", spec["variables"]),
            variable("instance", spec["variables"]),
        ]},
        "panels": panels,
    }


def main():
    directory = pathlib.Path(__file__).parent / "dashboards"
    directory.mkdir(exist_ok=True)
    for spec in [NODES, NETWORKS, MANAGERS, SERVICES]:
        text = json.dumps(dashboard(spec), indent=1) + "\n"
        (directory / f"{spec['file']}.json").write_text(text)


if __name__ == "__main__":
    main()
