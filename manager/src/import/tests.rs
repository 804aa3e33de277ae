use contrail_mesos_manager::Config;
use contrail_mesos_manager::vnc::{Auth, KeystoneVersion};

use super::*;

/// What the old manager's own package ships.
const SAMPLE: &str = "\
[VNC]
vnc_endpoint_ip = 10.84.22.1, 10.84.22.2
vnc_endpoint_port = 8082
rabbit_server = 127.0.0.1
rabbit_port = 5673
cassandra_server_list = 127.0.0.1:9161
zk_server_ip = 10.84.22.1:2181

[DEFAULTS]
log_file = /var/log/contrail/contrail-mesos-manager.log
log_level = SYS_DEBUG
log_local = 1

[MESOS]
pod_task_subnets = 10.32.0.0/12
ip_fabric_subnets = 10.64.0.0/12
";

/// Every key that the old manager knew.
const ALL: &str = "\
[DEFAULTS]
http_server_port=8109
worker_id=0
collectors=
logger_class=x
logging_conf=
log_local=False
log_category=
use_syslog=False
syslog_facility=f
disc_server_ip=localhost
disc_server_port=5998
log_level=SYS_NOTICE
log_file=/l
[VNC]
vnc_endpoint_ip=[127.0.0.1]
vnc_endpoint_port=9100
rabbit_server=r
rabbit_port=5672
rabbit_user=guest
rabbit_password=hidden1
rabbit_vhost=
rabbit_ha_mode=
rabbit_use_ssl=
kombu_ssl_version=
kombu_ssl_keyfile=
kombu_ssl_certfile=
kombu_ssl_ca_certs=
cassandra_user=
cassandra_password=hidden2
cassandra_server_list=
cassandra_use_ssl=
cassandra_ca_certs=
cluster_id=
admin_user=
admin_password=hidden3
admin_tenant=
public_fip_pool={}
zk_server_ip=127.0.0.1:2181
[MESOS]
mesos_cni_server=10.0.0.5
mesos_cni_port=6991
mesos_cni_secure_port=8443
mesos_cni_secure_ip=
pod_task_subnets=10.32.0.0/12 10.96.0.0/16
ip_fabric_subnets=10.64.0.0/12
mesos_cluster_owner=mesos
mesos_cluster_domain=default-domain
mesos_cluster_name=prod
cluster_project={'domain': 'tenants', 'project': 'shop'}
cluster_network={}
cluster_pod_task_network={'domain': 'tenants', 'project': 'shop', 'name': 'tasks'}
ip_fabric_forwarding=False
ip_fabric_snat=true
mesos_agent_retry_sync_hold_time=2
mesos_agent_retry_sync_count=6
[SANDESH]
sandesh_ssl_enable=False
[AUTH]
auth_token_url=http://10.84.22.1:35357/v2.0/tokens
auth_user=operator
auth_password=hidden4 # and ; more
auth_tenant=ops
[FOREIGN]
x=1
";

fn import(text: &str) -> String {
    let mut foreign = vec![];
    let keys = flatten(text, &mut foreign).unwrap();
    translate::toml(&keys, &foreign)
}

fn parse(text: &str) -> Config {
    Config::parse(Path::new("m.toml"), text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn sample_is_translated() {
    let text = import(SAMPLE);
    let config = parse(&text);
    let servers: Vec<String> = config
        .vnc
        .as_ref()
        .unwrap()
        .servers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        servers,
        ["http://10.84.22.1:8082", "http://10.84.22.2:8082"]
    );
    let provision = config.provision.unwrap();
    assert_eq!(
        provision.pod_task_subnets,
        ["10.32.0.0/12".parse().unwrap()]
    );
    assert_eq!(
        provision.ip_fabric_subnets,
        ["10.64.0.0/12".parse().unwrap()]
    );
    assert_eq!(config.defaults.cluster, "mesos");
    assert_eq!(config.legacy_listen, None);
    // The old manager had no leader election, so it is not turned on.
    assert!(config.zookeeper.is_none());
    for line in [
        "# servers = \"zk://10.84.22.1:2181/contrail-mesos\"",
        "# rabbit_port: RabbitMQ is not used",
        "# cassandra_server_list: the manager uses the VNC API",
        "--log-level debug",
    ] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
}

#[test]
fn keys_are_translated_or_named() {
    let text = import(ALL);
    // The password's file is not there; that is all that is wrong.
    let error = Config::parse(Path::new("m.toml"), &text).unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}\n{text}");
    assert!(error.to_string().contains("keystone.password"), "{error}");
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("keystone.password"), "p").unwrap();
    let here = directory.path().display().to_string();
    let config = parse(&text.replace("/etc/contrail-mesos", &here));

    assert_eq!(
        config.vnc.as_ref().unwrap().servers[0].to_string(),
        "http://127.0.0.1:9100"
    );
    assert_eq!(config.legacy_listen, "10.0.0.5:6991".parse().ok());
    assert_eq!(config.admin_listen, "127.0.0.1:8109".parse().ok());
    assert_eq!(config.defaults.cluster, "prod");
    assert_eq!(config.defaults.domain, "tenants");
    assert_eq!(config.defaults.project, "shop");
    assert_eq!(config.defaults.network.to_string(), "tenants:shop:tasks");
    let provision = config.provision.unwrap();
    assert_eq!(provision.pod_task_subnets.len(), 2);
    assert!(provision.ip_fabric_snat && !provision.ip_fabric_forwarding);
    let Auth::Keystone(keystone) = &config.vnc.as_ref().unwrap().auth else {
        panic!("{text}")
    };
    assert_eq!(
        (
            &*keystone.url,
            &*keystone.user,
            &*keystone.project,
            keystone.version
        ),
        (
            "http://10.84.22.1:35357",
            "operator",
            "ops",
            KeystoneVersion::V2
        )
    );

    assert!(!text.contains("hidden"), "{text}");
    assert!(!text.contains("had no such key"), "{text}");
    assert!(text.contains("# [foreign]: "), "{text}");
    let translated = [
        "http_server_port",
        "vnc_endpoint_ip",
        "vnc_endpoint_port",
        "zk_server_ip",
        "mesos_cni_server",
        "mesos_cni_port",
        "pod_task_subnets",
        "ip_fabric_subnets",
        "mesos_cluster_domain",
        "mesos_cluster_name",
        "cluster_project",
        "cluster_network",
        "cluster_pod_task_network",
        "ip_fabric_forwarding",
        "ip_fabric_snat",
        "auth_token_url",
        "auth_user",
        "auth_password",
        "auth_tenant",
        "x",
    ];
    let keys = ALL.lines().filter_map(|line| line.split_once('='));
    for (key, _) in keys.filter(|(key, _)| !translated.contains(key)) {
        assert!(text.contains(&format!("# {key}: ")), "{key}:\n{text}");
    }
}

#[test]
fn later_section_wins_and_invalid_values_are_named() {
    let text = import(
        "[VNC]\nauth_user=a\n[AUTH]\nauth_user=b\nauth_token_url=https://k/v3\nauth_password=\n\
         [MESOS]\npod_task_subnets=10.32.0.0/12\n  10.96.0.0/16\nip_fabric_subnets=10.64.0.0/12\n\
         mesos_cni_server=master\ncluster_project=x=1\nvnc_endpoint_port=many\nunheard=of\n",
    );
    for line in [
        "user = \"b\"",
        "url = \"https://k\"",
        "version = 3",
        "pod_task_subnets = [\"10.32.0.0/12\", \"10.96.0.0/16\"]",
        "# mesos_cni_server: \"master\" is a name",
        "# cluster_project: \"x=1\" cannot be parsed",
        "# vnc_endpoint_port: \"many\" is not a port; 8082 is used",
        "# unheard: the old manager had no such key",
    ] {
        assert!(text.contains(line), "{line}:\n{text}");
    }
}
