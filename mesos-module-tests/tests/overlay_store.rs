//! The allocations of overlay networks in the real ZooKeeper.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_api::cluster::{Node, NodeReport, NodeSubnets, Object, Versions};
use contrail_mesos_manager::ZooKeeper as Options;
use contrail_mesos_manager::overlay::{
    Allocator, AllocatorError, Changes, OverlayConfig, Store, StoreError, ZooKeeperStore,
};
use futures::future::join_all;
use mesos_module_tests::testbed::Host;
use mesos_module_tests::testbed::zookeeper::ZooKeeper;
use zookeeper_client::{Client, Error};

const DIGEST: &str = "managers:a-password-of-this-test-alone";
const GENERATION: &str = "/contrail/managers/overlay/generation";
const NODES: usize = 300;

fn config() -> Result<OverlayConfig> {
    let text = r#"{"vtep_subnet": "44.128.0.0/16", "vtep_mac_oui": "70:B3:D5:00:00:00", "overlays": [
        {"name": "one", "subnet": "9.0.0.0/8", "prefix": 24},
        {"name": "two", "subnet": "10.0.0.0/8", "prefix": 26}]}"#;
    Ok(OverlayConfig::parse(Path::new("overlay.json"), text)?)
}

fn options(zookeeper: &ZooKeeper, digest: Option<&str>) -> Options {
    Options {
        servers: zookeeper.address().to_string(),
        path: "/contrail/managers".to_owned(),
        digest: digest.map(|digest| digest.to_owned().into()),
        session_timeout: Duration::from_secs(3),
        advertise: None,
    }
}

fn store(zookeeper: &ZooKeeper) -> Arc<dyn Store> {
    Arc::new(ZooKeeperStore::new(options(zookeeper, Some(DIGEST))))
}

async fn load(store: Arc<dyn Store>) -> Result<(Allocator, Changes)> {
    Ok(Allocator::load(store, config()?).await?)
}

fn report(number: usize) -> NodeReport {
    let number = u32::try_from(number).unwrap_or_default();
    NodeReport {
        address: IpAddr::V4(Ipv4Addr::from(0xc612_0001 + number)),
        uplink_mtu: None,
        versions: Versions::default(),
        configuration: String::new(),
        applied: None,
        subsystems: vec![],
        endpoints: None,
        blocks: vec![],
    }
}

async fn register(allocator: &Allocator, number: usize) -> Result<Node, AllocatorError> {
    let name = format!("node-{number}");
    let answer = allocator.register(&name, &report(number)).await?;
    assert!(answer.problems.is_empty(), "{:?}", answer.problems);
    Ok(answer.node.expect("a node without problems"))
}

/// Registers a node however often the store has to be asked.
async fn register_at_last(allocator: &Allocator, number: usize) -> Result<Node> {
    for _ in 0..600 {
        match register(allocator, number).await {
            Ok(node) => return Ok(node),
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("node-{number} is never registered")
}

/// The nodes of an allocator, by name.
fn nodes(allocator: &Allocator) -> BTreeMap<String, Node> {
    let nodes = allocator.objects().into_iter().filter_map(|object| {
        let Object::Node(node) = object else {
            return None;
        };
        Some((node.name.clone(), node))
    });
    nodes.collect()
}

/// Checks that nothing was given twice.
fn check_distinct(nodes: &BTreeMap<String, Node>) -> Result<()> {
    let mut given = BTreeMap::new();
    for node in nodes.values() {
        let subnets = node.subnets.iter().flat_map(NodeSubnets::subnets);
        let parts = subnets.map(|subnet| subnet.to_string()).chain([
            node.vtep.address.to_string(),
            node.vtep.mac.to_string(),
            node.address.to_string(),
        ]);
        for part in parts {
            let other = given.insert(part.clone(), &node.name);
            ensure!(other.is_none(), "{part} of {} and {other:?}", node.name);
        }
    }
    Ok(())
}

async fn client(zookeeper: &ZooKeeper) -> Result<Client> {
    let connector = Client::connector().with_auth("digest", DIGEST.as_bytes());
    Ok(connector.connect(&zookeeper.address().to_string()).await?)
}

/// How many transactions there have been.
async fn generation(client: &Client) -> Result<i32> {
    let stat = client.check_stat(GENERATION).await?;
    Ok(stat.context("no generation")?.version)
}

#[test]
fn many_nodes_are_few_transactions_and_found_by_the_next_leader() -> Result<()> {
    let host = Host::start(IpAddr::from([192, 0, 2, 1]))?;
    let zookeeper = ZooKeeper::start(&host, 2181)?;
    host.block_on(async {
        let client = client(&zookeeper).await?;
        let (first, _changes) = load(store(&zookeeper)).await?;
        // Others read the directory above the configured one, which others may use too.
        let connector = Client::connector();
        let other = connector.connect(&zookeeper.address().to_string()).await?;
        assert_eq!(other.list_children("/contrail").await?, ["managers"]);
        let refused = other.list_children("/contrail/managers").await;
        ensure!(refused == Err(Error::NoAuth), "{refused:?}");
        let before = generation(&client).await?;
        let registered = join_all((0..NODES).map(|number| register(&first, number))).await;
        registered.into_iter().collect::<Result<Vec<_>, _>>()?;
        let transactions = generation(&client).await? - before;
        ensure!(transactions <= 10, "{transactions} transactions");
        let given = nodes(&first);
        assert_eq!(given.len(), NODES);
        check_distinct(&given)?;

        // The next leader finds them. The former one has not noticed yet, and gives nothing twice.
        let (second, _changes) = load(store(&zookeeper)).await?;
        assert_eq!(nodes(&second), given);
        let both = (NODES..NODES + 40).map(|number| {
            let allocator = if number % 2 == 0 { &first } else { &second };
            register_at_last(allocator, number)
        });
        join_all(both)
            .await
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        assert!(second.release("node-0").await?);
        let (third, _changes) = load(store(&zookeeper)).await?;
        let all = nodes(&third);
        assert_eq!(all.len(), NODES + 39);
        check_distinct(&all)?;
        for (name, node) in given {
            assert!(name == "node-0" || all[&name] == node, "{name}");
        }
        Ok(())
    })
}

#[test]
fn nothing_is_lost_when_zookeeper_is_killed() -> Result<()> {
    let host = Host::start(IpAddr::from([192, 0, 2, 1]))?;
    let mut zookeeper = ZooKeeper::start(&host, 2181)?;
    let (allocator, _changes) = host.block_on(load(store(&zookeeper)))?;
    let mut answered = BTreeMap::new();
    for round in 0..3 {
        // The server ends while nodes register.
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| -> Result<()> {
            let registration = scope.spawn(|| {
                host.block_on(async {
                    let mut nodes = vec![];
                    for number in round * 20..round * 20 + 20 {
                        nodes.push(register_at_last(&allocator, number).await?);
                        let _ = sender.send(());
                    }
                    anyhow::Ok(nodes)
                })
            });
            for _ in 0..5 {
                receiver.recv()?;
            }
            zookeeper.kill()?;
            zookeeper.run()?;
            let nodes = registration.join().expect("a registration panics")?;
            answered.extend(nodes.into_iter().map(|node| (node.name.clone(), node)));
            Ok(())
        })?;
    }
    host.block_on(async {
        let (next, _changes) = load(store(&zookeeper)).await?;
        check_distinct(&answered)?;
        assert_eq!(nodes(&next), answered);
        Ok(())
    })
}

#[test]
fn others_cannot_read_or_change_the_allocations() -> Result<()> {
    let host = Host::start(IpAddr::from([192, 0, 2, 1]))?;
    let zookeeper = ZooKeeper::start(&host, 2181)?;
    host.block_on(async {
        let (allocator, _changes) = load(store(&zookeeper)).await?;
        let node = register(&allocator, 1).await?;
        let other = Arc::new(ZooKeeperStore::new(options(&zookeeper, None)));
        let refused = Allocator::load(other, config()?).await.err();
        ensure!(
            matches!(
                refused,
                Some(AllocatorError::Store(StoreError::Refused { .. }))
            ),
            "{refused:?}"
        );

        // An operator deletes the node that orders the writes: nothing is given until a restart.
        client(&zookeeper).await?.delete(GENERATION, None).await?;
        let refused = register(&allocator, 2).await.err();
        ensure!(
            matches!(
                refused,
                Some(AllocatorError::Store(StoreError::Invalid { .. }))
            ),
            "{refused:?}"
        );
        assert_eq!(register(&allocator, 1).await?, node);
        let (next, _changes) = load(store(&zookeeper)).await?;
        assert_eq!(register(&next, 1).await?, node);
        register(&next, 2).await?;
        check_distinct(&nodes(&next))
    })
}
