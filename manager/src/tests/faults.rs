//! Every call of a create and of a delete fails, is lost, is late, or is the manager's last.

use std::sync::Arc;

use tokio::time::{sleep, timeout};

use super::*;
use contrail_mesos_sim::vnc::{Effect, Fault};

/// More calls than a create or a delete makes.
const CALLS: u64 = 40;

fn cases() -> Vec<(&'static str, Fault)> {
    vec![
        ("500", Fault::new(Effect::Status(500, "oops".to_owned()))),
        (
            "500, done",
            Fault::new(Effect::Status(500, "oops".to_owned())).performed(),
        ),
        (
            "nonsense",
            Fault::new(Effect::InvalidBody("<html>".to_owned())).performed(),
        ),
        (
            "403",
            Fault::new(Effect::Status(403, "Permission Denied".to_owned())),
        ),
        (
            "503",
            Fault::new(Effect::Status(503, "no ZooKeeper".to_owned())),
        ),
        ("cut", Fault::new(Effect::Cut)),
        ("cut, done", Fault::new(Effect::Cut).performed()),
    ]
}

async fn put(
    containers: &Containers,
    machine: Uuid,
    request: &PortsRequest,
) -> Result<(), ManagerError> {
    containers.put("node1", machine, request).await.map(drop)
}

fn assert_complete(world: &World, what: &str) {
    assert_eq!(world.more("virtual-machine"), 1, "{what}");
    assert_eq!(world.more("virtual-machine-interface"), 2, "{what}");
    assert_eq!(world.more("instance-ip"), 3, "{what}");
    assert_eq!(world.more("floating-ip"), 1, "{what}");
    let routers = world.server.objects("virtual-router");
    let links: usize = routers
        .iter()
        .map(|router| refs(router, "virtual_machine_refs").len())
        .sum();
    assert_eq!(links, 1, "{what}");
}

#[tokio::test]
async fn a_create_whose_every_call_fails_once_is_completed_or_removed() {
    let world = World::new().await;
    let (machine, request) = rich(1);
    // Of a manager that knows no names yet, so that looking them up fails as well.
    let containers = world.other();
    put(&containers, machine, &request).await.unwrap();
    let calls = containers.requests();
    containers.delete(Some("node1"), machine).await.unwrap();
    for (case, fault) in cases() {
        let mut failed = 0;
        for step in 0..calls {
            let what = format!("{case} at call {step}");
            let containers = world.other();
            world.server.fault(fault.clone().times(step, 1));
            let made = put(&containers, machine, &request).await;
            world.server.clear_faults();
            match made {
                Ok(()) => assert_complete(&world, &what),
                Err(error) => {
                    failed += 1;
                    // Undone, or remembered.
                    if containers.unfinished() == 0 {
                        world.assert_clean(&format!("{what}: {error}"));
                    }
                }
            }
            let again = if step % 2 == 0 {
                containers
            } else {
                world.other()
            };
            put(&again, machine, &request).await.unwrap();
            assert_complete(&world, &what);
            assert_eq!(again.unfinished(), 0, "{what}");
            again.delete(Some("node1"), machine).await.unwrap();
            world.assert_clean(&what);
        }
        // What passes is tried again below, in the client.
        let passes = case.starts_with("503") || case.starts_with("cut");
        assert_eq!(failed == 0, passes, "{case}");
    }
}

#[tokio::test]
async fn a_create_that_is_broken_off_for_good_is_removed_by_a_delete() {
    let world = World::new().await;
    let (machine, request) = rich(1);
    for (case, fault) in cases() {
        for step in 0..CALLS {
            let what = format!("{case} from call {step} on");
            let containers = world.impatient();
            world.server.fault(fault.clone().times(step, u64::MAX));
            let made = put(&containers, machine, &request).await;
            world.server.clear_faults();
            // The agent that gives up asks a manager that knows of nothing.
            world.other().delete(Some("node1"), machine).await.unwrap();
            world.assert_clean(&what);
            if made.is_ok() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_delete_whose_every_call_fails_is_completed_by_the_next() {
    let world = World::new().await;
    let (machine, request) = rich(1);
    put(&world.containers, machine, &request).await.unwrap();
    let before = world.containers.requests();
    world
        .containers
        .delete(Some("node1"), machine)
        .await
        .unwrap();
    let calls = world.containers.requests() - before;
    for (case, fault) in cases() {
        for (lasting, containers) in [(1, world.other()), (u64::MAX, world.impatient())] {
            for step in 0..calls {
                let what = format!("{case} at call {step}, {lasting} times");
                put(&world.containers, machine, &request).await.unwrap();
                world.server.fault(fault.clone().times(step, lasting));
                let deleted = containers.delete(Some("node1"), machine).await;
                world.server.clear_faults();
                if deleted.is_ok() {
                    world.assert_clean(&what);
                }
                world.other().delete(Some("node1"), machine).await.unwrap();
                world.assert_clean(&what);
            }
        }
    }
}

#[tokio::test]
async fn a_manager_that_dies_at_any_call_is_replaced() {
    let world = World::new().await;
    let (machine, request) = rich(1);
    for performed in [false, true] {
        for complete in [false, true] {
            let hang = Fault::new(Effect::Hang);
            let hang = if performed { hang.performed() } else { hang };
            let mut killed = 0;
            for step in 0..CALLS {
                let what = format!("killed at call {step}, {performed}, {complete}");
                world.server.fault(hang.clone().times(step, 1));
                let dying = world.other();
                // The future is dropped in the middle of the call, as by kill -9.
                let ended =
                    timeout(Duration::from_millis(200), put(&dying, machine, &request)).await;
                drop(dying);
                world.server.clear_faults();
                let next = world.other();
                if complete {
                    put(&next, machine, &request).await.unwrap();
                    assert_complete(&world, &what);
                }
                let Ok(done) = ended else {
                    killed += 1;
                    next.delete(Some("node1"), machine).await.unwrap();
                    world.assert_clean(&what);
                    continue;
                };
                done.unwrap();
                // And in the middle of a delete.
                for step in 0..CALLS {
                    put(&next, machine, &request).await.unwrap();
                    world.server.fault(hang.clone().times(step, 1));
                    let dying = world.other();
                    let deleted = dying.delete(Some("node1"), machine);
                    let ended = timeout(Duration::from_millis(200), deleted).await;
                    world.server.clear_faults();
                    if complete {
                        put(&next, machine, &request).await.unwrap();
                        assert_complete(&world, &what);
                    }
                    next.delete(Some("node1"), machine).await.unwrap();
                    world.assert_clean(&format!("delete {what}"));
                    if ended.is_ok() {
                        break;
                    }
                }
                break;
            }
            assert!(killed > 10, "{killed}");
        }
    }
}

#[tokio::test]
async fn what_the_server_does_late_is_not_done_twice() {
    let world = World::new().await;
    let (machine, request) = rich(1);
    let late = Duration::from_millis(100);
    for step in 0..CALLS {
        let what = format!("late at call {step}");
        let containers = world.impatient();
        world
            .server
            .fault(Fault::new(Effect::Delay(late)).times(step, 1));
        let made = put(&containers, machine, &request).await;
        world.server.clear_faults();
        put(&world.other(), machine, &request).await.unwrap();
        sleep(late).await;
        assert_complete(&world, &what);
        world.other().delete(Some("node1"), machine).await.unwrap();
        world.assert_clean(&what);
        if made.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_undone_at_once_is_undone_later() {
    let world = World::with(|config| config.rollback_delay = Duration::from_millis(50)).await;
    let (machine, request) = rich(1);
    let containers = world.impatient();
    let (known, other) = plain(2);
    put(&containers, known, &other).await.unwrap();
    containers.delete(Some("node1"), known).await.unwrap();
    let tidy = tokio::spawn({
        let containers: Arc<Containers> = containers.clone();
        async move { containers.tidy().await }
    });
    let broken = Fault::new(Effect::Status(503, "no ZooKeeper".to_owned()));
    world.server.fault(broken.on("POST", "/instance-ips"));
    let error = put(&containers, machine, &request).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(containers.unfinished(), 1);
    assert_eq!(world.more("virtual-machine"), 1);
    // Virtual time would pass the client's deadlines as well, so it is real.
    while containers.unfinished() > 0 {
        sleep(Duration::from_millis(50)).await;
    }
    world.assert_clean("undone");
    tidy.abort();
}

#[tokio::test]
async fn a_container_in_use_is_not_undone_when_it_is_asked_for_again_in_vain() {
    let world = World::with(|config| config.rollback_delay = Duration::from_millis(1)).await;
    let (machine, request) = rich(1);
    put(&world.containers, machine, &request).await.unwrap();
    for (case, fault) in cases() {
        for step in 0..CALLS {
            let containers = world.impatient();
            world.server.fault(fault.clone().times(step, u64::MAX));
            let made = put(&containers, machine, &request).await;
            world.server.clear_faults();
            let tidied = async {
                while containers.unfinished() > 0 {
                    sleep(Duration::from_millis(2)).await;
                }
            };
            tokio::select! {
                () = tidied => {}
                () = containers.tidy() => {}
            }
            assert_complete(&world, &format!("{case} from call {step} on"));
            if made.is_ok() {
                break;
            }
        }
    }
}
